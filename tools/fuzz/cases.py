"""Commands on files that are mostly wrong, each the same for the same seed and number."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tools.fuzz.material import DEVICES, MCUNET, SPECS, oracle, small_table
from tools.fuzz.values import NUMBERS, TEXTS, broken, json_bytes, mutated, number_text, toml_bytes

__all__ = ["KINDS", "Case", "draw_case", "shown"]

Files = dict[str, bytes]
Words = tuple[str, ...]

_NAMES = ("[/red]", "a b", "größer", "two\nlines", "\x1b[31mred", "%s", "x" * 200, "\u202ename", "#1", "models")
"""Of files, before their suffix."""


@dataclass(frozen=True)
class Case:
    """``words`` of a command line, run in a folder with ``files``; those in ``then`` must succeed where it does.

    ``check`` names what else is asked of a success (:mod:`tools.fuzz.judge`); ``apart`` has a solver run in a process
    of its own, as it does for users, instead of in the process of the case.
    """

    kind: str
    words: Words
    files: Mapping[str, bytes] = field(default_factory=dict)
    then: Words = ()
    check: str = ""
    apart: bool = False


def draw_case(material: Mapping[str, bytes], seed: int, number: int) -> Case:
    """The case of a number."""
    draw = Random(f"{seed} {number}")  # noqa: S311 (no secrets)
    (kind,) = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])
    case = KINDS[kind][1](draw, material)
    case = dataclasses.replace(case, kind=kind, apart=draw.random() < 0.01)
    if draw.random() < 0.05 and not case.check:
        case = _renamed(case, draw)
    return case


def _renamed(case: Case, draw: Random) -> Case:
    """The first file that the command names, with another name."""
    name = next((word for word in case.words if word in case.files and "/" not in word), None)
    if name is None:
        return case
    other = f"{draw.choice(_NAMES)}.{name.rpartition('.')[2]}"
    words = tuple(other if word == name else word for word in case.words)
    files = {other if key == name else key: content for key, content in case.files.items()}
    return dataclasses.replace(case, words=words, files=files)


def _times(draw: Random) -> int:
    return draw.choice([0, 1, 1, 1, 2, 2, 3, 6])


def _noise(content: bytes, draw: Random, share: float = 0.15) -> bytes:
    while draw.random() < share:
        content = broken(content, draw)
    return content


def _on_spec(draw: Random, name: str = "spec.toml") -> tuple[Words, str]:
    """A command that reads a spec, and the check of what it does."""
    solver = draw.choice([(), (), ("--solver", "decomposition"), ("--solver", "enumerate"), ("--solver", "highs")])
    return draw.choice(
        [
            (("show", name), ""),
            (("show", name), ""),
            (("show", name, "--json"), ""),
            (("solve", name, "--quiet", "--time-limit", "2", "--out", "out.json", *solver), "optimum"),
            (("solve", name, "--quiet", "--time-limit", "2", "--json"), ""),
            (("solve", name, "--quiet", "--time-limit", "2", "--top", "2", "--out", "out.json"), "optimum"),
            (("solve", name, "--quiet", "--time-limit", "2", "--explain"), ""),
            (("export-model", name, "--out", draw.choice(["out.mps", "out.lp", "out.nl"]), "--quiet"), ""),
            (("sample", name, "--number", "3", "--fill", "0.5", "--out", "designs", "--quiet"), ""),
            (("sweep", name, "--over", "macs=1e5,1e6", "--time-limit", "1", "--out", "front", "--quiet"), ""),
        ]
    )


def _budgeted(table: dict[str, Any], draw: Random) -> dict[str, Any]:
    """A table with budgets from the values of one of its architectures, just kept or just missed by it."""
    from mad_ip.errors import InputError
    from mad_ip.spec import Spec

    try:
        found = draw.choice(oracle().architectures(Spec.from_table(table)))
    except InputError:
        # Rules may leave no architecture.
        return table
    limits = {}
    for key in draw.sample(["macs", "params", "layers", "effectiveness"], draw.choice([0, 1, 1, 2, 4])):
        limits[key] = getattr(found, key) * draw.choice([1, 1, 1.01, 1.5, 0.99, 0.5])
    return {**table, "budget": limits} if limits else table


def _small(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A valid spec, solved in earnest and compared with enumeration."""
    table = small_table(draw)
    content = toml_bytes(_budgeted(table, draw) if draw.random() < 0.8 else table)
    words, check = _on_spec(draw)
    if words[0] != "solve" and draw.random() < 0.8:
        words, check = ("solve", "spec.toml", "--quiet", "--time-limit", "3", "--out", "out.json"), "optimum"
    then = ("show", "out.json") if check else ()
    return Case("", words, {"spec.toml": content}, then, check)


def _spec(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A small spec with some values that are not what they should be."""
    names = [*SPECS, *(["drawn"] * 4)]
    name = draw.choice(names)
    table = small_table(draw, 300) if name == "drawn" else SPECS[name]
    content = _noise(toml_bytes(mutated(table, draw, _times(draw))), draw)
    words, check = _on_spec(draw)
    files = {"spec.toml": content}
    if name == "timed":
        files["device.toml"] = _noise(material[f"device-{draw.choice(list(DEVICES))}.toml"], draw, 0.3)
    return Case("", words, files, ("show", "out.json") if check else (), check)


def _extreme(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A small spec whose numbers are of a kind that is allowed, and of any size."""
    table = small_table(draw, 200)
    for _ in range(draw.choice([1, 1, 2, 3])):
        number = draw.choice([10.0 ** draw.uniform(-320, 308), 10.0 ** draw.uniform(-9, 20), 10 ** draw.randint(0, 40)])
        section = draw.choice(["budget", "budget", "objective", "space", "weight", "weight", "input", "domain"])
        stage = draw.choice(table["stage"])
        if section == "weight":
            draw.choice([stage, table["stem"]])["weight"] = number
        elif section == "domain":
            key = draw.choice(["channels", "mid", "depth", "kernel"])
            stage[key] = draw.choice(
                [[1, 1 + 2 * int(min(number, 10**40) // 2)], {"min": 1, "max": 10 ** draw.randint(1, 20)}]
            )
        elif section == "input":
            key = draw.choice(["resolution", "classes", "channels"])
            table["input"][key] = table["input"].get(key, 1) * 2 ** draw.randint(1, 100)
        else:
            keys = {
                "budget": ("macs", "params", "layers", "effectiveness"),
                "objective": ("depth_penalty", "depth_penalty", "entropy"),
                "space": ("growth", "mid_ratio"),
            }
            key = draw.choice(keys[section])
            table.setdefault(section, {})[key] = (
                number if key != "mid_ratio" else sorted([number, draw.choice([0, 1, 4.5])])
            )
    words: Words = ("solve", "spec.toml", "--quiet", "--time-limit", "2", "--out", "out.json")
    check = "optimum"
    if draw.random() < 0.3:
        words, check = _on_spec(draw)
    return Case("", words, {"spec.toml": toml_bytes(table)}, ("show", "out.json") if check else (), check)


def _zoo(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A file of the zoo, changed."""
    name = draw.choice(["toy", "toy", "mobile"])
    if draw.random() < 0.5:
        table = tomllib.loads(material[f"zoo-{name}-spec.toml"].decode())
        content = material[f"zoo-{name}-spec.toml"]
        if draw.random() < 0.7:
            content = toml_bytes(mutated(table, draw, _times(draw)))
        words: Words = ("show", "spec.toml", *draw.choice([(), ("--json",)]))
        if draw.random() < 0.1:
            words = ("solve", "spec.toml", "--quiet", "--time-limit", "1")
        return Case("", words, {"spec.toml": _noise(content, draw, 0.4)})
    tree = json.loads(material[f"zoo-{name}-design.json"])
    content = _noise(json_bytes(mutated(tree, draw, _times(draw))), draw, 0.3)
    words = draw.choice(
        [
            ("show", "design.json"),
            ("show", "design.json", "--json"),
            ("show", "design.json", "--device", "stm32h743"),
            ("verify", "design.json", "--method", "audit", "--quiet"),
            ("score", "design.json"),
        ]
    )
    return Case("", words, {"design.json": content})


def _verified(draw: Random, method: str = "auto") -> Words:
    return (
        *("verify", "design.json", "--spec", "spec.toml", "--method", method, "--evaluations", "200"),
        *("--threads", "1", "--time-limit", "2", "--quiet"),
        *draw.choice([(), (), ("--json",), ("--write",)]),
    )


def _design(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A design with changes, and every command that reads one."""
    name = draw.choice(["small", "small", "inverted", "small-worse", "clip", "board", "timed", "valued", "mlp"])
    tree = mutated(json.loads(material[f"{name}.json"]), draw, _times(draw))
    spec = material[f"{name.removesuffix('-worse')}.toml"]
    files = {"design.json": _noise(json_bytes(tree), draw), "spec.toml": spec}
    if name == "timed":
        files["device.toml"] = material["device-affine.toml"]
    words: Words = draw.choice(
        [
            ("show", "design.json"),
            ("show", "design.json", "--spec", "spec.toml", "--json"),
            ("show", "design.json", "--html", "out.html"),
            ("show", "design.json", "--device", "stm32f746"),
            _verified(draw, draw.choice(["auto", "exhaustion", "bound"])),
            _verified(draw, draw.choice(["auto", "audit", "attack"])),
            ("export", "design.json", "--format", draw.choice(["tinynas", "python"]), "--out", "out.txt"),
            ("build", "design.json", "--out", "out.safetensors"),
            ("score", "design.json", "--json"),
        ]
    )
    return Case("", words, files, check="claims" if words[0] == "verify" else "")


def _certificate(draw: Random, material: Mapping[str, bytes]) -> Case:
    """What a design claims, and what is to prove it, changed; only what is true may be called proven."""
    name = draw.choice(["small", "inverted", "small-worse", "inverted-worse"])
    files = {"design.json": material[f"{name}.json"], "spec.toml": material[f"{name.removesuffix('-worse')}.toml"]}
    tree = json.loads(files["design.json"])
    if draw.random() < 0.4:
        part = draw.choice(["certificate", "metrics"])
        tree[part] = mutated(tree[part], draw, draw.choice([1, 1, 2]))
        files["design.json"] = json_bytes(tree)
        return Case("", _verified(draw, draw.choice(["auto", "exhaustion", "bound"])), files, check="claims")
    if draw.random() < 0.3:
        tree["certificate"] |= {"status": "optimal", "bound": tree["metrics"]["score"], "gap": 0.0}
        files["design.json"] = json_bytes(tree)
    proof = json.loads(material[f"{name}-bound.json"])
    if draw.random() < 0.3:
        proof["upper"] = tree["metrics"]["score"]
    proof["nodes"] = mutated(proof["nodes"], draw, _times(draw))
    if draw.random() < 0.4:
        proof = mutated(proof, draw, 1)
    files["proof.json"] = _noise(json_bytes(proof), draw)
    return Case("", (*_verified(draw), "--certificate", "proof.json"), files, check="claims")


_HIGHS = ("time_limit", "mip_rel_gap", "threads", "presolve", "random_seed", "mip_feasibility_tolerance", "log_file")


def _profile(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A solver profile with options of any kind; files that it names stay in the folder."""
    backend = draw.choice(["highs"] * 3 + ["enumerate", "decomposition", "evolution", "glpk", "scip", "cpsat"])
    table: dict[str, Any] = {"backend": backend, "options": {}}
    if draw.random() < 0.3:
        table["reduction"] = False
    for key in draw.sample(_HIGHS, draw.choice([0, 1, 2])) if backend == "highs" else ():
        table["options"][key] = draw.choice([1, 0.5, "on", "off", "text.log", *NUMBERS])
    if backend == "enumerate":
        table["options"]["paths"] = draw.choice([1, 1000, 10**9, *NUMBERS])
    if backend == "evolution":
        table["options"]["generations"] = draw.choice([1, 10, *NUMBERS])
    content = _noise(toml_bytes(mutated(table, draw, draw.choice([0, 0, 1, 2]))), draw)
    spec = material[draw.choice(["small.toml", "inverted.toml"])]
    words = ("solve", "spec.toml", "--quiet", "--time-limit", "1", "--solver", "profile.toml", "--out", "out.json")
    return Case("", words, {"spec.toml": spec, "profile.toml": content}, ("show", "out.json"), "optimum")


def _device(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A device.toml, or a latency table to import."""
    if draw.random() < 0.3:
        name = draw.choice(["latencies.txt", "latencies.yaml"])
        words: Words = ("device", "import", name, "--out", "out.toml")
        return Case("", words, {name: _noise(material[name], draw, 0.6)})
    table = mutated(DEVICES[draw.choice(list(DEVICES))], draw, _times(draw))
    files = {"device.toml": _noise(toml_bytes(table), draw), "spec.toml": material["timed.toml"]}
    files["design.json"] = material[draw.choice(["small.json", "timed.json", "inverted.json"])]
    words = draw.choice(
        [
            ("show", "design.json", "--device", "device.toml"),
            ("show", "design.json", "--device", "device.toml", "--interpolate", "--json"),
            ("solve", "spec.toml", "--quiet", "--time-limit", "2"),
            ("solve", "spec.toml", "--quiet", "--time-limit", "2", "--interpolate"),
            ("show", "spec.toml"),
        ]
    )
    return Case("", words, files)


def _structure(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A network of another project to import."""
    if draw.random() < 0.5:
        name, content = "structure.txt", material["structure.txt"]
        if draw.random() < 0.7:
            text = repr(mutated(ast.literal_eval(content.decode()), draw, _times(draw)))
            content = text.encode("utf-8", "surrogatepass")
    else:
        name, content = "network.json", json_bytes(mutated(MCUNET, draw, _times(draw)))
    words: Words = ("import", name, "--out", "out.json")
    if draw.random() < 0.2:
        option = draw.choice(["--resolution", "--classes", "--convention", "--format"])
        words = (*words, option, number_text(draw))
    return Case("", words, {name: _noise(content, draw, 0.2)}, ("show", "out.json"))


def _weights(draw: Random, material: Mapping[str, bytes]) -> Case:
    """Weights, a checkpoint of a training, its result or its images, with wrong bytes."""
    files = {"design.json": material["small.json"]}
    if draw.random() < 0.6:
        name = f"weights.{draw.choice(['safetensors', 'pt'])}"
        content = material[name]
        for _ in range(draw.choice([0, 1, 1, 2])):
            content = broken(content[: draw.choice([64, 2000, len(content)])], draw) + content[2000:]
        files[name] = content
        words: Words = ("export", "design.json", "--format", "safetensors", "--checkpoint", name)
        return Case("", (*words, "--out", "out.safetensors"), files)
    files["images.npz"] = material["images.npz"]
    which = draw.choice(["checkpoint", "checkpoint", "tree", "result", "images"])
    if which == "images":
        files["images.npz"] = broken(files["images.npz"], draw)
    elif which == "result":
        tree = mutated(json.loads(material["result.json"]), draw, _times(draw))
        files["out/result.json"] = _noise(json_bytes(tree), draw)
    elif which == "tree":
        files["out/checkpoint.pt"] = _checkpoint(material["checkpoint.pt"], draw)
    else:
        files["out/checkpoint.pt"] = broken(material["checkpoint.pt"], draw)
    words = ("train", "design.json", "--data", "images.npz", "--out", "out", "--epochs", "2", "--batch", "6")
    return Case("", (*words, "--threads", "1", "--quiet"), files)


def _checkpoint(content: bytes, draw: Random) -> bytes:
    """A checkpoint that torch reads, whose content is not what the training wrote."""
    import torch

    tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    key = draw.choice(list(tree))
    action = draw.random()
    if action < 0.2:
        del tree[key]
    elif action < 0.6:
        tree[key] = draw.choice([None, 0, -1, 10**9, 2.5, "x", [], {}, [[1]], torch.zeros(2)])
    elif isinstance(tree[key], dict) and tree[key]:
        inner = draw.choice(list(tree[key]))
        tree[key][inner] = draw.choice([None, 0, "x", [], {}, torch.zeros(3), torch.full((1,), float("nan"))])
    else:
        tree = draw.choice([tree[key], [tree], {"format": tree["format"]}, {**tree, "more": 1}])
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def _runs(draw: Random, material: Mapping[str, bytes]) -> Case:
    """A table of trained designs to calibrate on."""
    files = {name: content for name, content in material.items() if name.startswith("run-")}
    rows = [line.split(",") for line in material["runs.csv"].decode().splitlines()]
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
        row = draw.choice(rows)
        at = draw.randrange(len(row))
        texts = ("run-0.json", '"', "a,b", "../runs.csv", "x\0", "spec.toml", f"{row[at]} ")
        row[at] = draw.choice([number_text(draw)[:50], *texts])
    files["runs.csv"] = _noise("\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass"), draw, 0.6)
    files["spec.toml"] = material["small.toml"]
    if draw.random() < 0.2:
        files["run-3.json"] = _noise(material["run-3.json"], draw, 0.7)
    return Case("", ("calibrate", "spec.toml", "--runs", "runs.csv", "--out", "out.toml"), files, ("show", "out.toml"))


def _over(draw: Random, material: Mapping[str, bytes]) -> Case:
    """Grids of a sweep."""

    def limit() -> str:
        if draw.random() < 0.7:
            return draw.choice(["1e6", "2e6", "3e6", "0.3", "20", "24 kB", "8 ms", "1e9"])
        return number_text(draw)[:400]

    def grid() -> str:
        key = draw.choice(["macs", "params", "layers", "effectiveness", "activation", "latency", "mac", "", "[/red]"])
        text = ",".join(limit() for _ in range(draw.randint(1, 3)))
        if draw.random() < 0.6:
            # No more than a few points: each may take its time limit.
            number = draw.choice(["2", "3", "2", "1", "0", "-1", "x", "", "10001", "1" + "0" * 30, "2.0", "²"])
            text = f"{limit()}:{limit()}:{number}"
        return f"{key}{draw.choice(['=', '=', '=', '=', '', '==', ' = '])}{text}"

    overs = [word for _ in range(draw.choice([1, 1, 1, 2, 3])) for word in ("--over", grid())]
    words = ("sweep", "spec.toml", *overs, "--time-limit", "1", "--out", "front", "--quiet")
    return Case("", words, {"spec.toml": material["small.toml"]})


_OPTIONS: dict[Words, tuple[str, ...]] = {
    ("solve", "spec.toml", "--quiet", "--out", "out.json", "--time-limit", "2"): (
        *("--gap", "--time-limit", "--threads", "--top", "--seed", "--solver", "--gap", "--threads"),
    ),
    ("sweep", "spec.toml", "--quiet", "--over", "macs=1e6,2e6", "--out", "front", "--time-limit", "2"): (
        *("--gap", "--time-limit", "--threads", "--seed"),
    ),
    ("verify", "design.json", "--spec", "spec.toml", "--quiet", "--evaluations", "100", "--time-limit", "2"): (
        *("--gap", "--time-limit", "--threads", "--seed", "--evaluations", "--method"),
    ),
    ("show", "design.json", "--explain", "--spec", "spec.toml"): ("--threads",),
    ("show", "design.json"): ("--device",),
    ("init", "--like", "design.json"): (
        *("--macs", "--params", "--resolution", "--family", "--classes", "--device", "--effectiveness", "--activation"),
        *("--flash", "--latency", "--name", "--like", "--resolution"),
    ),
    ("import", "structure.txt", "--out", "out.json"): ("--resolution", "--classes", "--convention", "--format"),
    ("sample", "spec.toml", "--out", "designs", "--quiet", "--number", "4", "--fill", "0.5"): (
        *("--number", "--fill", "--effectiveness", "--seed"),
    ),
    ("score", "design.json", "--time-limit", "2"): (
        *("--resolution", "--convention", "--device", "--against", "--gap", "--time-limit"),
    ),
    ("build", "design.json", "--out", "out.safetensors"): ("--seed",),
    ("export", "design.json", "--format", "python", "--out", "out.py"): ("--format", "--seed", "--activation"),
    ("export-model", "spec.toml", "--quiet", "--out", "out.mps"): ("--format",),
    ("device", "import", "latencies.txt", "--out", "out.toml"): ("--batch", "--bytes", "--format"),
    ("train", "design.json", "--data", "images.npz", "--out", "out", "--quiet", "--epochs", "1", "--threads", "1"): (
        *("--batch", "--lr", "--optimiser", "--momentum", "--weight-decay", "--warmup", "--smoothing", "--mixup"),
        *("--cutmix", "--seed", "--limit", "--threads", "--device", "--evaluate-every", "--checkpoint-minutes"),
    ),
    ("schema",): ("--kind",),
}
"""Commands that succeed, and options of theirs whose values are drawn."""

_OPTION_FILES = {
    "spec.toml": "small.toml",
    "design.json": "small.json",
    "structure.txt": "structure.txt",
    "latencies.txt": "latencies.txt",
    "images.npz": "images.npz",
}


def _options(draw: Random, material: Mapping[str, bytes]) -> Case:
    """Values of options."""
    words = draw.choice(list(_OPTIONS))
    for option in draw.sample(_OPTIONS[words], min(draw.choice([1, 1, 2]), len(_OPTIONS[words]))):
        value = number_text(draw) if draw.random() < 0.75 else draw.choice(TEXTS)
        value = value.replace("\0", "0").encode("utf-8", "replace").decode()[:5000]
        # A path that leaves the folder of the case is no input.
        value = value.replace("/", "")
        words = (*words, option, value) if draw.random() < 0.8 else (*words, f"{option}={value}")
    files = {name: material[source] for name, source in _OPTION_FILES.items() if name in words}
    return Case("", words, files, check="optimum" if words[0] == "solve" else "")


Draw = Callable[[Random, Mapping[str, bytes]], Case]

KINDS: dict[str, tuple[float, Draw]] = {
    "small": (5, _small),
    "spec": (24, _spec),
    "extreme": (8, _extreme),
    "zoo": (8, _zoo),
    "design": (17, _design),
    "certificate": (8, _certificate),
    "profile": (5, _profile),
    "device": (8, _device),
    "structure": (8, _structure),
    "weights": (3, _weights),
    "runs": (1, _runs),
    "over": (2, _over),
    "options": (8, _options),
}
"""Each kind of case with its weight."""


def shown(words: Sequence[str], longest: int = 80) -> str:
    """A command line as it is typed, with what is not printable escaped and long words cut."""
    return " ".join(_shown(word if len(word) <= longest else f"{word[:longest]}...") for word in words)


def _shown(word: str) -> str:
    plain = bool(word) and word.isprintable() and not set(word) & set(" '\"\\$`[]*?")
    return word if plain else repr(word)
