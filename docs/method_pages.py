"""Writes a page per method into docs/methods: ``python docs/method_pages.py``.

Everything on a page comes from the method itself: the text from its docstring, options and defaults from its constructor, and
the diagram from a forward pass, by following the autograd graph from the logits back to the inputs. A page can't be out of
date without a test noticing.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import networkx as nx
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.cost import parameter_counts
from datamodules.batch import Batch, Item, collate_dialogues, collate_utterances
from zoo import create, get_method, list_methods, method_options
from zoo.base import FusionModule

FOLDER = Path(__file__).parent / "methods"
AUDIO, TEXT, CLASSES = 40, 768, 4
"""Widths that most papers have: 40 MFCC, BERT-base, four classes."""
SIZES = {7: "B", 11: "N", 77: "B·N", 211: "T", 13: "L", 224: "T+L"}
"""Sizes of the batch that is traced; no method has them as a width, so that a shape can name them."""


_ARROW = {"arrowstyle": "-|>", "color": "#5b6472", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}


class Part(NamedTuple):
    """A box of the diagram."""

    title: str
    kind: str
    shape: str


def example(unit: str) -> Batch:
    """A batch without padding, of 7 utterances or of 7 dialogues of 11, whose inputs ask for a gradient."""
    random = np.random.default_rng(0)

    def item(number: int) -> Item:
        audio, text = random.normal(size=(211, AUDIO)), random.normal(size=(13, TEXT))
        return Item(audio.astype(np.float32), text.astype(np.float32), number % CLASSES, str(number), str(number % 2))

    items = [item(number) for number in range(77)]
    turns = [items[i : i + 11] for i in range(0, 77, 11)]
    batch = collate_utterances(items[:7]) if unit == "utterance" else collate_dialogues(turns)
    return batch._replace(audio=batch.audio.requires_grad_(), text=batch.text.requires_grad_())


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(SIZES.get(size, str(size)) for size in tensor.shape) + ")"


def _blocks(method: FusionModule) -> Iterator[tuple[str, nn.Module]]:
    """The parts a method is made of: its children, and those of lists of modules."""
    for name, child in method.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{key}", part) for key, part in child.named_children())
        # A dropout that is off hands its input on, and metrics are no part of the network.
        elif any(True for _ in child.parameters()) and not isinstance(child, nn.Dropout):
            yield name, child


@contextmanager
def _undetached() -> Iterator[None]:
    """Follow data also where a method stops the gradient."""
    original = Tensor.detach
    Tensor.detach = lambda self: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.detach = original  # type: ignore[method-assign]


def trace(method: FusionModule) -> "nx.DiGraph[str]":
    """The parts of a method and the data between them, from the inputs to the logits."""
    batch = example(method.unit)
    graph: nx.DiGraph[str] = nx.DiGraph()
    made: dict[Any, str] = {}
    ends: dict[str, list[Any]] = {}

    def note(name: str, module: nn.Module, output: Any) -> None:  # noqa: ANN401
        tensors = [t for t in (output if isinstance(output, tuple) else (output,)) if isinstance(t, Tensor) and t.grad_fn]
        if not tensors or tensors[0].grad_fn in made:
            return
        calls = sum(node == name or node.startswith(f"{name} #") for node in graph)
        node = f"{name} #{calls + 1}" if calls else name
        graph.add_node(node, part=Part(node, type(module).__name__.lstrip("_"), _shape(tensors[0])))
        ends[node] = [t.grad_fn for t in tensors]
        made.update((t.grad_fn, node) for t in tensors)

    handles = [
        block.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, block in _blocks(method)
    ]
    with _undetached():
        output = method.eval()(batch)
    for handle in handles:
        handle.remove()
    inputs = {id(getattr(batch, name)): f"input {name}" for name in method.modalities}
    for name in method.modalities:
        graph.add_node(f"input {name}", part=Part(name, "input", _shape(getattr(batch, name))))
    graph.add_node("logits", part=Part("logits", "output", _shape(output.logits)))
    for node, functions in [*ends.items(), ("logits", [output.logits.grad_fn])]:
        waiting, seen = list(functions), set()
        while waiting:
            function = waiting.pop()
            if function is None or function in seen:
                continue
            seen.add(function)
            source = made.get(function) or inputs.get(id(getattr(function, "variable", None)))
            if source is not None and source != node:
                graph.add_edge(source, node)
            else:
                waiting += [following for following, _ in function.next_functions]
    return graph.subgraph(nx.ancestors(graph, "logits") | {"logits"}).copy()


def _routed(graph: "nx.DiGraph[str]") -> tuple["nx.DiGraph[str]", list[list[str]]]:
    """The graph with a knee in every layer that an edge passes, so that it can go around the boxes there; and the layers."""
    depth = {node: number for number, layer in enumerate(nx.topological_generations(graph)) for node in layer}
    for node in graph:  # an input stands right above what it feeds
        if not list(graph.predecessors(node)):
            depth[node] = min(depth[successor] for successor in graph.successors(node)) - 1
    routed: nx.DiGraph[str] = nx.DiGraph()
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for node in sorted(graph):
        routed.add_node(node)
        layers[depth[node]].append(node)
    for source, target in sorted(graph.edges):
        path = [source]
        for passed in range(depth[source] + 1, depth[target]):
            path.append(f"{source}→{target} {passed}")
            layers[passed].append(path[-1])
        nx.add_path(routed, [*path, target])
    return routed, layers


def _places(routed: "nx.DiGraph[str]", layers: list[list[str]]) -> dict[str, float]:
    """Where a node stands in its layer: near what it is joined to, and at least one place from the next."""
    x = {node: place - (len(layer) - 1) / 2 for layer in layers for place, node in enumerate(layer)}
    for sweep in range(12):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            joined = routed.predecessors if sweep % 2 == 0 else routed.successors
            wish = {node: float(np.mean([x[other] for other in joined(node)] or [x[node]])) for node in layer}
            layer.sort(key=lambda node: (wish[node], node))
            gap = [0.0, *np.cumsum([0.5 + 0.25 * ("→" not in a) + 0.25 * ("→" not in b) for a, b in pairwise(layer)])]
            shift = float(np.mean([wish[node] - g for node, g in zip(layer, gap, strict=True)]))
            x.update((node, shift + g) for node, g in zip(layer, gap, strict=True))
    return x


def draw(graph: "nx.DiGraph[str]", path: Path) -> None:
    """Draw the graph from the inputs at the top to the logits at the bottom, as SVG."""
    routed, layers = _routed(graph)
    x = _places(routed, layers)
    spots = {node: (2.6 * x[node], -1.25 * depth) for depth, layer in enumerate(layers) for node in layer}
    left, right = min(s[0] for s in spots.values()) - 1.3, max(s[0] for s in spots.values()) + 1.3
    figure = Figure(figsize=(right - left, 1.25 * len(layers) - 0.15))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(left, right)
    axes.set_ylim(-1.25 * (len(layers) - 1) - 0.55, 0.55)
    axes.axis("off")
    for source, target in routed.edges:
        (x0, y0), (x1, y1) = spots[source], spots[target]
        y0, y1 = y0 - 0.31 * (source in graph), y1 + 0.33 * (target in graph)
        axes.plot([x0, x1], [y0, y1], color="#5b6472", lw=1.1, solid_capstyle="round", zorder=1)
        if target in graph:
            axes.annotate("", (x1, y1), (x1 - 0.02 * (x1 - x0), y1 - 0.02 * (y1 - y0)), arrowprops=_ARROW)
    fills = {"input": "#dfeaf7", "output": "#e4f2e1"}
    for node in graph:
        part: Part = graph.nodes[node]["part"]
        box = {"boxstyle": "round,pad=0.35", "facecolor": fills.get(part.kind, "#f6f3ea"), "edgecolor": "#5b6472"}
        lines = [part.title] if part.kind in fills else [part.title, part.kind]
        axes.text(*spots[node], "\n".join([*lines, part.shape]), ha="center", va="center", fontsize=8.5, color="#1d2430", bbox=box)
    with mpl.rc_context({"svg.hashsalt": "fusion-zoo", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, facecolor="white")


def _markdown(text: str) -> str:
    """A docstring's double backticks and single ones (names) as Markdown code."""
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _described(name: str) -> dict[str, str]:
    """What the constructor's docstring says of every argument."""
    doc = inspect.getdoc(get_method(name).__init__) or ""
    block = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL)
    found: dict[str, str] = {}
    for line in block[1].splitlines() if block else []:
        if match := re.match(r"    (\w+): (.*)", line):
            found[match[1]] = match[2]
        else:
            found[list(found)[-1]] += " " + line.strip()
    return found


def _equations(name: str) -> str:
    """The section with the equations of the class's docstring, if it has any."""
    block = re.search(r"Equations::\n\n((?:    .*(?:\n|$)|\n)+)", inspect.getdoc(get_method(name)) or "")
    return f"## Equations\n\n```text\n{inspect.cleandoc(block[1])}\n```" if block else ""


def page(name: str) -> str:
    """The page of one method, in Markdown."""
    method = get_method(name)
    title, _, body = (inspect.getdoc(inspect.getmodule(method)) or "").partition("\n")
    model = create(name, audio_dim=AUDIO, text_dim=TEXT, num_classes=CLASSES)
    described, options = _described(name), method_options(name)
    parts = [
        f"# {name}",
        _markdown(title),
        f"![Data flow of {name}]({name}.svg)",
        f"*Drawn from a forward pass with {AUDIO} MFCC per frame, token vectors of {TEXT} numbers and {CLASSES} classes; B items, "
        "N turns, T frames, L tokens.*",
        _equations(name),
        "## What it does, and where it departs from the paper",
        _markdown(body.strip()),
        f"- **Family**: {method.family}; one item is {'an utterance' if method.unit == 'utterance' else 'a dialogue'}; reads "
        f"{' and '.join(method.modalities)}\n- **Paper**: {method.paper}\n- **Parameters** at these widths: "
        f"{parameter_counts(model)[0]:,}",
        "## Options",
        "| option | default | meaning |\n|---|---|---|\n"
        + "\n".join(f"| `{o}` | `{d!r}` | {_cell(_markdown(described.get(o, '')))} |" for o, d in options.items()),
        "## Returns",
        _markdown(inspect.getdoc(method.forward) or ""),
    ]
    if method.published is not None:
        training = ", ".join(f"{key} {value}" for key, value in vars(method.published.training).items())
        own = ", ".join(f"`{key}={value!r}`" for key, value in method.published.options.items())
        parts += [
            "## Published track",
            f"- Audio: `{method.published.audio}`\n- Text: `{method.published.text}`\n- Training: {training}"
            + (f"\n- Options: {own}" if own else ""),
        ]
    if method.ablations:
        metrics = list(dict.fromkeys(key for row in method.ablations.values() for key in row.reported))
        head = ["row", "method", "options", *(f"paper's {metric}" for metric in metrics)]
        rows = [
            [
                row_name,
                row.method,
                ", ".join(
                    [f"`{key}={value!r}`" for key, value in row.options.items()] + ([f"audio `{row.audio}`"] if row.audio else [])
                )
                or "defaults",
                *(f"{'≈' * row.derived}{row.reported[m]:.2f}" if m in row.reported else "–" for m in metrics),
            ]
            for row_name, row in method.ablations.items()
        ]
        table = ["| " + " | ".join(map(_cell, row)) + " |" for row in [head, *rows]]
        table.insert(1, "|---" * len(head) + "|")
        about = f"`fusion-zoo ablate {name}` runs these rows."
        if any(row.derived for row in method.ablations.values()):
            about += " ≈: not printed; it follows from what is, as said above."
        parts += ["## Ablations", about, "\n".join(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def index() -> str:
    """The table of all methods, in Markdown."""
    lines = ["# Methods", "", "| method | family | unit | parameters | paper |", "|---|---|---|---:|---|"]
    for name in list_methods():
        method = get_method(name)
        count = parameter_counts(create(name, audio_dim=AUDIO, text_dim=TEXT, num_classes=CLASSES))[0]
        lines.append(f"| [{name}]({name}.md) | {method.family} | {method.unit} | {count:,} | {_cell(method.paper)} |")
    lines += ["", f"Parameters with {AUDIO} MFCC, token vectors of {TEXT} numbers and {CLASSES} classes."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name in list_methods():
        torch.manual_seed(0)
        draw(trace(create(name, audio_dim=AUDIO, text_dim=TEXT, num_classes=CLASSES)), FOLDER / f"{name}.svg")
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")
        sys.stdout.write(f"{name}\n")
    (FOLDER / "README.md").write_text(index(), encoding="utf-8")


if __name__ == "__main__":
    main()
