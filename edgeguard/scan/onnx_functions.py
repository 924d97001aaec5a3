"""Functions that an ONNX model brings along: who calls whom, and how large the graph is with every call replaced.

Runtimes inline them by recursion, so one that calls itself ends the process (onnxruntime up to 1.26), and seventeen
that call each other three times are more nodes than fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan.onnx_tensors import shown


class FunctionKey(NamedTuple):
    """What names an operator or function."""

    domain: str
    name: str
    overload: str


@dataclass(slots=True)
class Body:
    """Nodes of the main graph or of a function: how many, and how often each function is called."""

    nodes: int = 0
    calls: dict[FunctionKey, int] = field(default_factory=dict)


class _Expansion(NamedTuple):
    """A body with every call replaced by what it calls: how many nodes, how many calls in one another."""

    nodes: int
    height: int


class CallTree:
    """The bodies of all functions of a model."""

    def __init__(self) -> None:
        self.bodies: dict[FunctionKey, Body] = {}
        self._done: dict[FunctionKey, _Expansion] = {}

    def check(self) -> None:
        """Check every function, also those nothing calls: a runtime may look at them.

        Raises:
            ModelStructureError: one calls itself, or the calls are too deep or too many.
        """
        for key, body in self.bodies.items():
            self._expand(body, (key,))

    def nodes(self, main: Body) -> int:
        """Return how many nodes the main graph has with every call replaced.

        Raises:
            ModelStructureError: more than a model may have.
        """
        return self._expand(main, ()).nodes

    def _expand(self, body: Body, chain: tuple[FunctionKey, ...]) -> _Expansion:
        """Return the size of `body`; `chain` is the way here."""
        nodes, height = body.nodes, 0
        for key, times in body.calls.items():
            if key in chain:
                raise ModelStructureError(f"the function {shown(key.name)} calls itself", code="EG-G007")
            if key not in self._done:
                if len(chain) > limits.MAX_CALL_DEPTH:  # bounds our own recursion
                    raise _too_deep()
                self._done[key] = self._expand(self.bodies[key], (*chain, key))
            nodes += times * self._done[key].nodes
            height = max(height, 1 + self._done[key].height)
        if height > limits.MAX_CALL_DEPTH:
            raise _too_deep()
        if nodes > limits.MAX_NODES:
            raise ModelStructureError(f"the model has more than {limits.MAX_NODES} nodes", code="EG-G003")
        return _Expansion(nodes, height)


def _too_deep() -> ModelStructureError:
    return ModelStructureError(f"functions call functions deeper than {limits.MAX_CALL_DEPTH}", code="EG-G003")
