"""Error budgets: how far a result may be from the truth, judged by how far plain PyTorch is in the same dtype."""

import torch
from torch import Tensor


def assert_within_budget(ours: Tensor, plain: Tensor, truth: Tensor, *, margin: float, what: str = "") -> None:
    """Our largest and mean error against the float64 truth stay within twice the plain form's, plus a floor.

    Args:
        margin: the floor, as a share of the truth's largest value: what rounding alone may cost.
    """
    scale = truth.abs().max().item()
    error, budget = (ours.double() - truth).abs(), (plain.double() - truth).abs()
    limits = {"largest": 2 * budget.max().item(), "mean": 2 * budget.mean().item()}
    for name, value in (("largest", error.max().item()), ("mean", error.mean().item())):
        limit = limits[name] + margin * scale
        if not value <= limit:
            worst = int(error.argmax())
            raise AssertionError(
                f"{what}: {name} error {value:.3e} over the budget {limit:.3e}; worst at flat index {worst}: "
                f"ours {ours.flatten()[worst].item():.6g}, plain {plain.flatten()[worst].item():.6g}, "
                f"truth {truth.flatten()[worst].item():.6g}"
            )


def assert_same(ours: Tensor, truth: Tensor, *, tolerance: float, what: str = "") -> None:
    """Largest difference at most `tolerance` of the truth's largest value."""
    assert ours.shape == truth.shape, f"{what}: shape {tuple(ours.shape)}, not {tuple(truth.shape)}"
    if truth.numel() == 0:
        return
    error = (ours.double() - truth.double()).abs()
    limit = tolerance * max(truth.abs().max().item(), 1e-30)
    worst = int(error.argmax())
    assert error.max().item() <= limit, (
        f"{what}: differs by {error.max().item():.3e}, allowed {limit:.3e}, at flat index {worst}: "
        f"{ours.flatten()[worst].item():.8g} against {truth.flatten()[worst].item():.8g}"
    )


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False) -> Tensor:
    """Normal numbers, the same for the same seed and shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)
