"""A network under a bit plan, in PyTorch: rounded weights, and inputs of layers that are rounded on their way in.

The weights are those of proxyless_arch.weights.quantizer, the modules those of the zoo: what a layer takes in is
rounded by a quantizer in front of it. Gradients pass through rounding as if it were none (straight-through, Bengio et
al. 2013) where the input is within its clip, and reach the clip (LSQ, Esser et al. 2020).

Twin: proxyless_nas_tensorflow/quantized.py. In float64 the logits are the same: in float32 the last digit of a sum
decides now and then between two steps, in each framework otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from proxyless_arch.arch.bits import BitPlan, bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.quantizer import levels, quantized_tensors
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.weights import load_named

QUANTIZER = "input_quantizer"
"""What a module that takes a rounded input calls what rounds it."""


class _Round(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def straight_rounded(x: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    return _Round.apply(x)


def fake_quantized(x: Tensor, bits: int, clip: Tensor | float, *, signed: bool = False) -> Tensor:
    """``x`` in the steps of its format (quantizer.quantized_activation), differentiable in ``x`` and ``clip``."""
    most = levels(bits, signed=signed)
    least, steps = -most if signed else 0, x * (most / clip)
    if not torch.is_grad_enabled():  # the same numbers, in one new array: it is memory that takes the time
        return steps.clamp_(least, most).round_().mul_(clip / most)
    return straight_rounded(torch.clamp(steps, least, most)) * (clip / most)


class InputQuantizer(nn.Module):
    """Rounds what the module that it is attached to takes in. ``clip``: a buffer, which is no weight of the network."""

    def __init__(self, bits: int, clip: float, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.register_buffer("clip", torch.tensor(clip), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantized(x, self.bits, self.clip, signed=self.signed)

    def in_front(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """As a hook in front of a module's forward."""
        return (self(inputs[0]), *inputs[1:])


def attach(net: ProxylessNet, plan: BitPlan) -> ProxylessNet:
    """Give the layers of ``net`` the inputs of ``plan``; the weights stay. Returns ``net``."""
    for layer in bit_layers(net.spec):
        bits = plan.formats[layer.name].activation_bits
        if bits is not None:
            given = plan.ranges[layer.name]
            set_quantizer(net.get_submodule(layer.input_place), InputQuantizer(bits, given.clip, given.signed))
    return net


def set_quantizer(module: nn.Module, quantizer: InputQuantizer) -> None:
    """Put ``quantizer`` in front of ``module``, in place of one that may be there."""
    detach(module)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    setattr(module, QUANTIZER, quantizer.to(device))
    module._quantizing = module.register_forward_pre_hook(quantizer.in_front)


def detach(module: nn.Module) -> None:
    """Take the quantizer in front of ``module`` away, where there is one."""
    if hasattr(module, QUANTIZER):
        module._quantizing.remove()  # type: ignore[operator, union-attr]
        delattr(module, QUANTIZER)


def quantizers(net: nn.Module) -> Iterator[tuple[str, InputQuantizer]]:
    """(the module's name, its quantizer) of all that are attached."""
    for name, module in net.named_modules():
        if isinstance(found := getattr(module, QUANTIZER, None), InputQuantizer):
            yield name, found


def build_quantized(spec: ArchSpec, tensors: NamedTensors, plan: BitPlan) -> ProxylessNet:
    """The network of ``spec`` with these weights under ``plan``, in eval mode.

    Raises InputError for a plan or weights of another network.
    """
    net = build(spec)
    load_named(net, spec, quantized_tensors(spec, tensors, plan))
    return attach(net.eval(), plan)


def exact_forward(net: ProxylessNet, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
    """(N, 3, H, W) float32 images -> (N, classes) float32 logits, computed in float64. ``net`` is left as it was."""
    exact = copy.deepcopy(net).double().eval()
    exact.to(device, memory_format=torch.contiguous_format)  # twice as fast as channels_last in float64

    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        return exact(images.to(device, torch.float64, memory_format=torch.contiguous_format)).float()

    return forward


def clips_of(net: nn.Module) -> Mapping[str, float]:
    """The clip of each quantizer, by its module's name."""
    return {name: float(quantizer.clip) for name, quantizer in quantizers(net)}
