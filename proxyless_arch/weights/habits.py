"""What people who come from timm, torchvision or Keras Applications pass to a function that builds a network.

What has a meaning here is taken under our name, what changes nothing is let go, and the rest is refused by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import nearest, shown

SAME: Mapping[str, str] = MappingProxyType(
    {
        "drop_rate": "dropout_rate",
        "dropout": "dropout_rate",
        "checkpoint_path": "pretrained",
        "weights": "pretrained",
        "in_channels": "in_chans",
        "out_features": "num_classes",
    }
)
"""Other names of ours."""
PUBLISHED = ("imagenet", "default", "imagenet1k_v1", "imagenet1k_v2")
"""Words, in small letters, for the published weights."""
NO_MATTER = frozenset(("progress", "scriptable", "exportable", "no_jit", "cache_dir", "strict"))
"""Every network here scripts, exports and says what it downloads; the cache is $PROXYLESSNAS_HOME."""


class Refused(NamedTuple):
    """``neutral``: the values that ask for nothing; ``instead``: what to do for others."""

    neutral: tuple[Any, ...]
    instead: str


_PREPARED = "images are prepared as the network's spec says: net, transform, classes = load(...)"
_SPEC = "change the spec, and build it"
_WIDTH = "the released networks have one width; proxyless_mobile_14 is 1.4 times as wide"
REFUSED: Mapping[str, Refused] = MappingProxyType(
    {
        "drop_path_rate": Refused((0, None), "no block is left out at random here; drop_rate is for the classifier"),
        "drop_block_rate": Refused((0, None), "no part is left out at random here; drop_rate is for the classifier"),
        "pretrained_cfg": Refused((None,), _PREPARED),
        "pretrained_cfg_overlay": Refused((None,), _PREPARED),
        "include_preprocessing": Refused((False,), _PREPARED),
        "img_size": Refused((None,), "images of any size are taken"),
        "output_stride": Refused((32,), "the strides are the spec's; features_only gives the larger feature maps"),
        "bn_momentum": Refused((None,), _SPEC),
        "bn_eps": Refused((None,), _SPEC),
        "act_layer": Refused((None,), _SPEC),
        "norm_layer": Refused((None,), _SPEC),
        "pad_type": Refused((None, ""), _SPEC),
        "width_mult": Refused((1,), _WIDTH),
        "alpha": Refused((1,), _WIDTH),
        "depth_multiplier": Refused((1,), _WIDTH),
        "minimalistic": Refused((False,), _SPEC),
        "channel_multiplier": Refused((1,), _WIDTH),
    }
)


def in_our_words(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The arguments that a caller names, under the names that the function knows.

    Raises:
        InputError: one that has no meaning here, or one named twice.
        TypeError: one that nobody has, with the nearest name.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = name if name in known else SAME.get(name)
        if own is not None and own in known:
            if own in found or (own != name and own in given):
                raise InputError(f"given twice, as {own} as well", name)
            if own == name or value not in (None, ""):
                found[own] = value if own == name else _in_our_way(own, value)
        elif name in REFUSED:
            neutral, instead = REFUSED[name]
            if not any(value is each or (each is not None and value == each) for each in neutral):
                raise InputError(f"expected {shown(neutral[0])} here, got {shown(value)}: {instead}", name)
        elif name not in NO_MATTER:
            raise TypeError(f"unexpected argument {name!r}{nearest(name, (*known, *SAME))}")
    return found


def _in_our_way(own: str, value: Any) -> Any:
    """The value of another name."""
    is_published = own == "pretrained" and str(getattr(value, "name", value)).lower() in PUBLISHED
    return True if is_published else value
