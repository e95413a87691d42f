#!/usr/bin/env python3
"""Time the exported layers and networks on this machine. Needs numpy and the runtime's own package, nothing else.

    python run.py --runtime onnxruntime          (pip install onnxruntime)
    python run.py --runtime litert               (pip install ai-edge-litert)

Writes results-<runtime>.csv beside this file, a line per timing, appended at once: after an interruption the same
command goes on where it stopped (with other --threads: give another --output). Bring that file back and read it with

    python hardware/profile_latency.py --import_results results-onnxruntime.csv
"""

import argparse
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (a script for old Pythons too)


def cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def values(seed, shape, is_int8):
    numbers = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.clip(np.rint(20 * numbers), -128, 127).astype(np.int8) if is_int8 else numbers


def onnx_session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    images = [values(n, entry.shape, entry.type == "tensor(int8)") for n in range(4)]
    state = {"turn": 0}

    def run():
        state["turn"] = (state["turn"] + 1) % len(images)
        session.run(None, {entry.name: images[state["turn"]]})

    return run


def litert_session(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    interpreter.set_tensor(entry["index"], values(0, entry["shape"], entry["dtype"] == np.int8))
    return interpreter.invoke


RUNTIMES = {
    "onnxruntime": (onnx_session, ".onnx", "onnxruntime"),
    "litert": (litert_session, ".tflite", "ai-edge-litert"),
}
SAME = ("device", "runtime", "runtime_version", "threads", "export")  # to go on with an earlier file


def timings(run, threads, runs, warmup, min_ms):
    """ms per run: of the calling thread's time on the core for one thread, else by the wall clock."""
    clock = time.thread_time if threads == 1 and hasattr(time, "thread_time") else time.perf_counter

    def once(inner):
        start = clock()
        for _ in range(inner):
            run()
        return 1000 * (clock() - start) / inner

    first = statistics.median([once(1) for _ in range(warmup)])
    inner = min(1000, max(1, int(min_ms / max(first, 1e-4)) + 1))
    return [once(inner) for _ in range(runs)]


def kept(path, facts):
    """(bytes of whole lines, pairs of file and round in them) of an earlier run; exits where that was another one."""
    if not os.path.exists(path):  # noqa: PTH110
        return 0, set()
    with open(path, "rb") as file:
        content = file.read()
    whole = content.rfind(b"\n") + 1  # a kill may have cut off the last line
    try:
        lines = content[:whole].decode("utf-8").splitlines()
        earlier = json.loads(lines[0].lstrip("# ")) if lines else facts
        different = [name for name in SAME if earlier.get(name) != facts[name]]
    except (ValueError, AttributeError):
        different = None
    if different is None or not b"# {".startswith(content[:3]):
        sys.exit("%s: no results of this script; choose another --output" % path)  # noqa: UP031
    if different:
        texts = ", ".join("%s %r, now %r" % (name, earlier.get(name), facts[name]) for name in different)  # noqa: UP031
        sys.exit("%s holds timings of other conditions (%s); choose another --output" % (path, texts))  # noqa: UP031
    return whole, {(row[0], row[1]) for row in csv.reader(lines[1:]) if len(row) == 4}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=sorted(RUNTIMES), default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10, help="timings per round")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--min_ms", type=float, default=2.0, help="shorter layers run several times per timing")
    parser.add_argument("--output", default=None, help="CSV file (default: results-<runtime>.csv beside this script)")
    arguments = parser.parse_args()
    load, suffix, package = RUNTIMES[arguments.runtime]
    with open(os.path.join(HERE, "manifest.json"), "rb") as file:  # noqa: PTH118
        manifest = file.read()
    every = json.loads(manifest.decode("utf-8"))["cases"]
    cases = [case for case in every if suffix in case["suffixes"]]
    if len(cases) < len(every):
        texts = len(every) - len(cases), len(every), suffix
        sys.exit("%d of %d cases were not exported as %s: export without --runtime, for all" % texts)  # noqa: UP031
    given = arguments.output and os.path.expanduser(arguments.output)  # noqa: PTH111
    output = given or os.path.join(HERE, "results-%s.csv" % arguments.runtime)  # noqa: PTH118, UP031
    facts = {
        "device": cpu_name(),
        "os": platform.platform(),
        "runtime": arguments.runtime,
        "runtime_version": importlib.metadata.version(package),
        "threads": arguments.threads,
        "clock": "thread_cpu" if arguments.threads == 1 else "wall",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "export": hashlib.sha256(manifest).hexdigest()[:16],
    }
    whole, done = kept(output, facts)
    with open(output, "a", newline="", encoding="utf-8") as file:
        file.truncate(whole)
        if not whole:
            file.write("# %s\nfile,round,timing,ms\n" % json.dumps(facts))  # noqa: UP031
        for number in range(arguments.rounds):
            order = list(cases)
            random.Random(number).shuffle(order)
            for index, case in enumerate(order):
                name = case["file"]
                if (name, str(number)) in done:
                    continue
                run = load(os.path.join(HERE, name + suffix), arguments.threads)  # noqa: PTH118
                found = timings(run, arguments.threads, arguments.runs, arguments.warmup, arguments.min_ms)
                file.writelines("%s,%d,%d,%.6f\n" % (name, number, n, ms) for n, ms in enumerate(found))  # noqa: UP031
                file.flush()
                progress = "\rround %d of %d: %d of %d " % (number + 1, arguments.rounds, index + 1, len(order))  # noqa: UP031
                sys.stderr.write(progress)
    print("\n" + output)


if __name__ == "__main__":
    main()
