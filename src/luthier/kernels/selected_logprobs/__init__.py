"""Log-probabilities of chosen tokens without ever holding the logits of more than a few rows."""

from luthier.kernels.selected_logprobs.op import selected_logprobs as selected_logprobs
