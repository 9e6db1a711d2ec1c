"""Integer training: quantised tensors, layers whose products are of whole numbers, L1 norms."""

from .layers import QConfig, QConv2d, QLinear, convert_to_integer_training
from .norm import QuantL1Norm
from .shift import QTensor, ShiftTensor, quantize_shift, quantize_tensor, shift_matmul

__all__ = [
    "QConfig",
    "QConv2d",
    "QLinear",
    "QTensor",
    "QuantL1Norm",
    "ShiftTensor",
    "convert_to_integer_training",
    "quantize_shift",
    "quantize_tensor",
    "shift_matmul",
]
