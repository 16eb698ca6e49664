"""Log-probabilities of chosen tokens without ever holding the logits of more than a few rows."""

from luthier.kernels.selected_logprobs.adapted import adapted_logprobs as adapted_logprobs
from luthier.kernels.selected_logprobs.op import chunk_rows as chunk_rows
from luthier.kernels.selected_logprobs.op import selected_logprobs as selected_logprobs
