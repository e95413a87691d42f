"""Checkpoints as others write them: the network's tensors are found however they are wrapped, and nothing is run."""

import argparse
import collections
import datetime
import enum
import functools
import json
import pathlib
import pickle
import random
from dataclasses import dataclass

import numpy as np
import pytest

from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_arch.weights.lookup import find_trained
from proxyless_arch.weights.pickles import MAX_ODD_KEYS
from tests.errors import refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, rich, three_blocks

torch = pytest.importorskip("torch")

SPEC = three_blocks()
PLAIN, AVERAGE = random_tensors(SPEC), random_tensors(SPEC, seed=5)


def state_of(tensors, prefix="", extra=True):
    """A state dict as torch has it, with batch counters."""
    state = collections.OrderedDict((prefix + name, torch.from_numpy(array)) for name, array in tensors.items())
    if extra:
        state[f"{prefix}first_conv.bn.num_batches_tracked"] = torch.tensor(7)
    state._metadata = {"": {"version": 1}}
    return state


@dataclass
class Settings:
    lr: float
    path: pathlib.Path


class Phase(enum.Enum):
    TRAIN = 1


class Bag(dict):
    """A person's own class."""

    def __reduce__(self):
        return type(self), (), {"made_by": "me"}, None, iter(self.items())


class Meter:
    __slots__ = ("total",)

    def __init__(self):
        self.total = 3


class Holder:
    """A checkpoint that is an object."""

    def __init__(self, state):
        self.model_state, self.epoch = state, 3


def optimizer_state():
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


STRANGERS = {
    "args": argparse.Namespace(lr=0.1, data=pathlib.Path("photos")),
    "settings": Settings(0.1, pathlib.PurePosixPath("x")),
    "phase": Phase.TRAIN,
    "best": np.float64(75.3),
    "epoch": np.int64(3),
    "flag": np.bool_(True),
    "history": collections.defaultdict(list, {"loss": [1.0, np.float32(2)]}),
    "counter": collections.Counter(a=2),
    "meter": Meter(),
    "bag": Bag(a=1),
    "when": datetime.datetime(2026, 1, 1),
    "partial": functools.partial(max, 1),
    "set": {1, 2},
    "complex": 1j,
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "rng": torch.get_rng_state(),
    "generator": torch.Generator().get_state(),
    "numpy rng": np.random.RandomState(1).get_state(),
    "numpy generator": np.random.default_rng(1),
    "python rng": random.Random(1).getstate(),
    "optimizer": optimizer_state(),
    "complex tensor": torch.zeros(2, dtype=torch.complex64),
    "scaler": {"scale": torch.tensor(65536.0), "growth": torch.tensor(3, dtype=torch.int32)},
    "mask": torch.zeros(3, dtype=torch.bool),
    "function": len,
    "class": Settings,
    "object": object(),
}


def with_tools(prefix=""):
    """What a profiler and an average leave in a state dict."""
    state = state_of(PLAIN, prefix)
    state["n_averaged"] = torch.tensor(3)
    for layer in ("", "first_conv.", "blocks.0.mobile_inverted_conv.depth_conv.conv."):
        state[f"{prefix}{layer}total_ops"] = torch.zeros(1, dtype=torch.float64)
        state[f"{prefix}{layer}total_params"] = torch.zeros(1, dtype=torch.float64)
    return state


def later_names(tensors):
    """Names of once-for-all's later code."""
    return {name.replace(".mobile_inverted_conv.", ".conv."): array for name, array in tensors.items()}


PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model.module.net.")
WRAPPINGS = {
    "bare": state_of(PLAIN),
    "dict": dict(state_of(PLAIN)),
    "parameters": {name: torch.nn.Parameter(value) for name, value in state_of(PLAIN, extra=False).items()},
    "arrays": {"model": PLAIN},
    "half": {"model": {name: torch.from_numpy(array).double() for name, array in PLAIN.items()}},
    **{
        key: {key: state_of(PLAIN), "epoch": 3} for key in ("state_dict", "model", "net", "model_state_dict", "weights")
    },
    **{key: {key: state_of(PLAIN)} for key in ("state_dict_ema", "model_ema", "ema", "my_network")},
    **{prefix: state_of(PLAIN, prefix) for prefix in PREFIXES},
    "nested": {"model": {"state_dict": state_of(PLAIN, "module.")}},
    "deep": {"checkpoint": {"states": [{"net": {"state_dict": state_of(PLAIN, "_orig_mod.module.")}}]}},
    "lightning": {
        "state_dict": state_of(PLAIN, "model.") | {"loss.weight": torch.ones(1000)},
        "callbacks": {"ModelCheckpoint{}": {"best_model_path": "x", "current_score": torch.tensor(0.5)}},
        "hyper_parameters": Bag(lr=1),
    },
    "later": {"state_dict": state_of(later_names(PLAIN))},
    "tools": with_tools("module."),
    "object": Holder(state_of(PLAIN)),
    "bag of weights": {"model": Bag(state_of(PLAIN))},
    "default dict": collections.defaultdict(list, {"model": state_of(PLAIN)}),
    "strangers": {"model": state_of(PLAIN), **STRANGERS},
    "ignite": {"model": state_of(PLAIN), "trainer": {"epoch_length": 3}, "optimizer": optimizer_state()},
}


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_usual_wrappings(wrapping, modern, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(WRAPPINGS[wrapping], path, _use_new_zipfile_serialization=modern)
    for wanted in (SPEC, None):
        found = read_tensors(path, wanted)
        assert_equal({name: found.tensors[name] for name in expected_tensors(SPEC)}, PLAIN)
        assert found.tensors.keys() == PLAIN.keys()


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_alone_does_no_harm(name, tmp_path):
    for protocol in (2, 4):
        torch.save({"state_dict": state_of(PLAIN), name: STRANGERS[name]}, tmp_path / "a.pth", pickle_protocol=protocol)
        assert_equal(read_tensors(tmp_path / "a.pth", SPEC).tensors, PLAIN)


@pytest.mark.parametrize("name", ["a.pth.tar", "a.ckpt", "a.bin", "a.pt", "a.tar", "init", "a.weird", "a.h5"])
def test_the_name_of_a_file_does_not_matter(name, tmp_path):
    torch.save({"state_dict": state_of(PLAIN)}, tmp_path / name)
    assert_equal(read_tensors(tmp_path / name, SPEC).tensors, PLAIN)
    save_safetensors(tmp_path / name, SPEC, AVERAGE, {"a": 1})
    found = read_tensors(tmp_path / name)
    assert (found.spec, found.provenance) == (SPEC, {"a": 1})
    assert_equal(found.tensors, AVERAGE)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(protocol, tmp_path):
    """Of arrays, and of tensors, which bring a file of torch.save within the pickle."""
    for state in (PLAIN, dict(state_of(PLAIN)), {"model": PLAIN}):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps(state, protocol=protocol))
        assert_equal(read_tensors(tmp_path / "net.pkl", SPEC).tensors, PLAIN)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "_orig_mod.module."])
def test_wrapped_safetensors(wrapper, tmp_path):
    from safetensors.torch import save_file

    save_file(with_tools(wrapper), tmp_path / "model.safetensors")
    assert_equal(read_tensors(tmp_path / "model.safetensors", SPEC).tensors, PLAIN)


TWO = {
    "timm": ({"state_dict": state_of(PLAIN), "state_dict_ema": state_of(AVERAGE)}, "'state_dict_ema'"),
    "model_ema": ({"model": state_of(PLAIN), "model_ema": state_of(AVERAGE, "module.")}, "'model_ema'"),
    "torchvision": (
        {"model": state_of(PLAIN), "model_ema": with_tools("module.") | state_of(AVERAGE, "module.")},
        "ema",
    ),
    "one dict": (state_of(PLAIN, "online_model.") | state_of(AVERAGE, "ema_model."), "'ema_model.'"),
    "swa": ({"net": state_of(PLAIN), "swa": {"net": state_of(AVERAGE)}}, "'swa', 'net'"),
}


@pytest.mark.parametrize("case", TWO)
def test_averaged_weights_go_first_and_it_is_said(case, tmp_path):
    state, place = TWO[case]
    torch.save(state, tmp_path / "net.pth")
    found = read_tensors(tmp_path / "net.pth", SPEC)
    assert_equal(found.tensors, AVERAGE)
    assert place in found.note.partition(", also there: ")[0]
    assert found.note.partition(", also there: ")[2]


def test_which_of_several_is_taken(tmp_path):
    path = tmp_path / "net.pth"
    parameters_alone = {name: array for name, array in AVERAGE.items() if "running" not in name}
    torch.save({"model": state_of(PLAIN), "ema": state_of(parameters_alone)}, path)
    assert_equal(read_tensors(path, SPEC).tensors, PLAIN)  # an average of the parameters alone is no network
    torch.save({"best_model": state_of(AVERAGE), "state_dict": state_of(PLAIN)}, path)
    found = read_tensors(path)
    assert_equal(found.tensors, PLAIN)
    assert found.note == "taken from 'state_dict', also there: 'best_model'"
    other = rich()
    torch.save({"teacher": state_of(random_tensors(other)), "student": state_of(PLAIN)}, path)
    assert_equal(read_tensors(path, SPEC).tensors, PLAIN)  # the network asked for decides
    assert read_tensors(path, other).tensors.keys() == expected_tensors(other).keys()
    torch.save({"state_dict": state_of(AVERAGE, "teacher.") | state_of(PLAIN, "model.")}, path)
    assert_equal(read_tensors(path, SPEC).tensors, PLAIN)
    torch.save({"a": state_of(PLAIN), "b": state_of(AVERAGE)}, path)
    with refused("", "several networks", "'a'", "'b'", source=path):
        read_tensors(path, SPEC)
    torch.save({"state_dict": state_of(PLAIN) | state_of(AVERAGE, "module.")}, path)
    with refused("", "several networks", source=path):
        read_tensors(path, SPEC)


def test_what_is_left_out_is_said(tmp_path):
    torch.save(WRAPPINGS["lightning"], tmp_path / "net.ckpt")
    assert read_tensors(tmp_path / "net.ckpt", SPEC).note == "1 tensor left out (loss.weight)"
    torch.save(WRAPPINGS["strangers"], tmp_path / "net.ckpt")
    assert read_tensors(tmp_path / "net.ckpt", SPEC).note == ""
    torch.save(state_of(PLAIN) | {"head.weight": torch.ones(3)}, tmp_path / "net.ckpt")
    with pytest.raises(InputError, match=r"1 unexpected \(head.weight\)"):  # beside our layers: another network
        read_tensors(tmp_path / "net.ckpt", SPEC)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"model": net, "optimizer": optimizer_state()}])
@pytest.mark.parametrize("protocol", [2, 4])
def test_whole_modules_are_refused_in_plain_words(wrap, protocol, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(wrap(net), tmp_path / "net.pth", pickle_protocol=protocol)
    with refused("", "whole module", "state_dict", source=tmp_path / "net.pth"):
        read_tensors(tmp_path / "net.pth", SPEC)
    torch.jit.script(net).save(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"TorchScript .*state_dict\(\)"):
        read_tensors(tmp_path / "net.pt", SPEC)


RAN = []


class Trap:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


def spring(*given):
    RAN.append(given)
    return {}


@pytest.mark.parametrize(
    "how",
    [
        (spring, ("called",)),
        (spring, (), {"state": 1}),
        (Trap, (1,), {"x": 1}, iter([1, 2]), iter([("k", 1)])),
        (functools.partial, (spring, 1), (spring, (), {}, None)),
        (getattr, (Settings, "lr")),
    ],
    ids=["called", "set", "filled", "partial", "getattr"],
)
def test_nothing_of_a_checkpoint_is_run(how, tmp_path):
    torch.save({"model": state_of(PLAIN), "trap": Trap(*how)}, tmp_path / "net.pth")
    RAN.clear()
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)
    assert RAN == []


@pytest.mark.parametrize("command", [("os", "system"), ("builtins", "exec"), ("subprocess", "run"), ("ctypes", "CDLL")])
def test_a_checkpoint_that_names_a_program_is_refused(command, tmp_path):
    module = __import__(command[0])
    torch.save({"model": state_of(PLAIN), "x": Trap(getattr(module, command[1]), ("exit 3",))}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"nothing was run"):
        read_tensors(tmp_path / "net.pth", SPEC)


def test_a_checkpoint_that_contains_itself(tmp_path):
    loop = {"model": state_of(PLAIN)}
    loop["again"] = [loop, Bag(a=loop)]
    torch.save(loop, tmp_path / "net.pth")
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    state = state_of(PLAIN)
    state["first_conv.bn.bias"] = torch.full_like(state["first_conv.bn.bias"], value)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"1 not finite \(first_conv.bn.bias\)"):
        read_tensors(tmp_path / "net.pth", SPEC)


class Pairs:
    """An OrderedDict as old pickles have it: made of a list of pairs."""

    def __init__(self, keys):
        self.pairs = [[key, 0] for key in keys]

    def __reduce__(self):
        return collections.OrderedDict, (self.pairs,)


@pytest.mark.parametrize("kind", [dict.fromkeys, set, frozenset, Pairs])
@pytest.mark.parametrize("key", [lambda k: (2**61 - 1) * k, lambda k: (k, -k), float, lambda k: 2**31 * k])
def test_keys_whose_hashes_can_be_chosen_are_cut_off(kind, key, tmp_path):
    collide = {"model": state_of(PLAIN), "x": kind([key(k) for k in range(1, 1200)])}
    torch.save(collide, tmp_path / "net.pth", pickle_protocol=4)  # which has operations for sets
    with pytest.raises(InputError, match=f"more than {MAX_ODD_KEYS} keys"):
        read_tensors(tmp_path / "net.pth", SPEC)


def test_the_keys_of_optimizers_and_settings_are_read(tmp_path):
    more = {"x": dict.fromkeys(range(3000)), "y": {(1, 2): 0, None: 0, 0.5: 0, 2**40: 0}, "z": {b"a", "b"}}
    torch.save({"model": state_of(PLAIN), **more}, tmp_path / "net.pth")
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)


@pytest.mark.parametrize("attribute", ["items", "keys", "get", "__class__", "__iter__"])
def test_methods_that_a_pickle_sets_are_not_called(attribute, tmp_path):
    class Odd(collections.OrderedDict):
        def __reduce__(self):
            return collections.OrderedDict, (), {attribute: 3}, None, iter(self.items())

    torch.save({"model": Odd(state_of(PLAIN)), "x": Odd(a=1)}, tmp_path / "net.pth")
    try:
        assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)
    except InputError as error:
        assert "damaged pickle" in str(error)


def test_many_prefixes_take_no_time(tmp_path):
    odd = {f"a{k}.blocks.x": torch.zeros(1) for k in range(3000)}
    torch.save({"model": state_of(PLAIN), "odd": odd}, tmp_path / "net.pth")
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)


# Several files, and folders


def in_parts(folder, kind, prefix="", n=3):
    """PLAIN as several files with an index of them, in the manner of Hugging Face; the index."""
    from safetensors.torch import save_file

    stem, ending = ("model", ".safetensors") if kind == "safetensors" else ("pytorch_model", ".bin")
    state = state_of(PLAIN, prefix)
    names, places = list(state), {}
    for k in range(n):
        file = f"{stem}-{k + 1:05}-of-{n:05}{ending}"
        part = {name: state[name] for name in names[k::n]}
        (save_file if kind == "safetensors" else torch.save)(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_in_parts(kind, prefix, tmp_path):
    index = in_parts(tmp_path, kind, prefix)
    for path in (index, tmp_path):
        assert_equal(read_tensors(path, SPEC).tensors, PLAIN)
    with pytest.raises(InputError) as caught:
        find_trained(str(index), place="--arch")
    assert caught.value.place == "--arch" and "--weights" in caught.value.problem
    part = min(tmp_path.glob("*-of-*"))
    with refused("", "part 1 of 3", index.name, source=str(part)):
        read_tensors(part, SPEC)
    part.unlink()
    with refused("", "1 part of 3 not there", part.name, source=str(index)):
        read_tensors(index, SPEC)


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "..", "", 3, None])
def test_an_index_leads_nowhere_else(name, tmp_path):
    index = tmp_path / "model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with refused("weight_map.a", "beside the index", source=str(index)):
        read_tensors(index)
    index.write_text("[]")
    with refused("", "expected an object", source=str(index)):
        read_tensors(index)


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    index = in_parts(tmp_path, "bin")
    torch.save(state_of(PLAIN), min(tmp_path.glob("*-of-*")))
    with refused("", "parts of one network", "twice", source=str(index)):
        read_tensors(index)


def test_the_weights_in_a_folder(tmp_path):
    with refused("", "none in it", source=str(tmp_path)):
        read_tensors(tmp_path)
    torch.save(state_of(PLAIN), tmp_path / "epoch_9.pth")
    assert_equal(read_tensors(tmp_path, SPEC).tensors, PLAIN)
    torch.save(state_of(AVERAGE), tmp_path / "epoch_8.pth")
    with refused("", "one of epoch_8.pth, epoch_9.pth", source=str(tmp_path)):
        read_tensors(tmp_path)
    save_safetensors(tmp_path / "weights.safetensors", SPEC, AVERAGE, {})
    assert_equal(read_tensors(tmp_path, SPEC).tensors, AVERAGE)


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (optimizer_state(), ["optimizer", "alone"]),
        ({"optimizer": optimizer_state(), "epoch": 3}, ["optimizer", "epoch"]),
        ({"state_dict": {}, "args": {"lr": 0.1}}, ["state_dict (empty)", "args"]),
        ({}, ["found nothing"]),
    ],
)
@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_what_is_there_in_place_of_weights_is_said(modern, held, found, tmp_path):
    torch.save(held, tmp_path / "net.pth", _use_new_zipfile_serialization=modern)
    with refused("", *found, source=str(tmp_path / "net.pth")):
        read_tensors(tmp_path / "net.pth", SPEC)


@pytest.mark.parametrize("part", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"])
def test_a_wrapper_around_one_layer_alone(tmp_path, part):
    state = state_of(PLAIN, "model.")
    names = {
        name: name.replace(".blocks.1.", f".blocks.1.{part}.").replace(".linear.", f".{part}.linear.") for name in state
    }
    torch.save({"state_dict": {names[name]: tensor for name, tensor in state.items()}}, tmp_path / "net.pth")
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)


def test_the_items_of_a_state_dict(tmp_path):
    torch.save({"weights": list(state_of(PLAIN).items()), "epoch": 3}, tmp_path / "net.pth")
    assert_equal(read_tensors(tmp_path / "net.pth", SPEC).tensors, PLAIN)
