"""Layers that stand in for torch's inside of its transformers.

In evaluation ``nn.TransformerEncoderLayer`` calls none of its children: it hands their weights to
one kernel for attention, layer normalisations and linear maps as torch has them.  A layer of ours
in their place would be left out without a word.  The kernel is not taken where a child has hooks.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def _itself(module: nn.Module, args: Any) -> None:
    """A hook that does nothing."""


def called(module: nn.Module) -> None:
    """Have a layer called wherever it stands."""
    module.register_forward_pre_hook(_itself)


def call_children(module: nn.Module) -> None:
    """Have the encoders within a module call their children, whatever stands there."""
    for each in module.modules():
        if isinstance(each, nn.TransformerEncoderLayer):
            each.activation_relu_or_gelu = 0
        elif isinstance(each, nn.TransformerEncoder):
            each.use_nested_tensor = False
