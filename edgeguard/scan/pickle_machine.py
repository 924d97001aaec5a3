"""Follows a pickle step by step without importing, calling or building anything.

The walker is the unpickler with every verb replaced by a note. It keeps the stack and the memo, so that a name which is
put together from constants (STACK_GLOBAL) is known, and it goes on where an unpickler would give up (an empty stack, a
memo entry that was never made): what stands behind the break may still be reached by a more patient loader.

Bounded: one step per opcode out of the file's budget; constants are kept short or by place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from edgeguard.scan.content import shown
from edgeguard.scan.findings import ScanVerdict
from edgeguard.scan.pickle_calls import check_call
from edgeguard.scan.pickle_names import judge
from edgeguard.scan.pickle_ops import LexError, Opcode, Span, opcode_at
from edgeguard.scan.pickle_values import Import, Items, Made, Persistent, Special, Table, Value

HIGHEST_PROTOCOL: Final = 5
MAX_NOTES_PER_KIND: Final = 100  # of one rule in one pickle; more say nothing new and cost memory
_PUSHED: Final = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "NONE", "NEWTRUE", "NEWFALSE",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip


class Note(NamedTuple):
    """A finding of the walker; `rule_id` as in `findings.RULES`, `offset` from the start of the pickle's content."""

    rule_id: str
    message: str
    offset: int
    verdict: ScanVerdict | None = None


class Inline(NamedTuple):
    """Bytes behind a BUILD that the loader reads itself: raw data up to `end`, or a pickle of its own from `start`."""

    start: int
    end: int
    is_pickle: bool


# Asked after BUILD about what was built: bytes that follow and are not opcodes, None for none.
InlineReader = Callable[[memoryview, Made, int], Inline | None]


class OutOfStepsError(Exception):
    """The file's budget of steps is spent. Internal."""


class PickleWalker:
    """Walks one pickle of `data` from `start`; read the attributes after `walk`.

    Attributes:
        notes: what was found, in order.
        end: the offset after STOP, or where the walk broke off.
        complete: whether STOP was reached.
        acted: whether, before anything an unpickler would stop at, a name was called or a forbidden one imported.
        top: the value on the stack at STOP.
        persistent_ids: ids given to the loader, in order.
        constants: places of bytes constants.
        steps: opcodes read.
        inline_reads: how often bytes between the opcodes were left to the loader.
        break_: why the walk broke off, None when it did not.
    """

    def __init__(self, data: memoryview, start: int, steps_left: int, inline: InlineReader | None = None) -> None:
        self._data = data
        self._at = start
        self._start = start
        self._steps_left = steps_left
        self._inline = inline
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}
        self._protocol = 0
        self._underflow = False
        self._frame_end = 0
        self.notes: list[Note] = []
        self.end = start
        self.complete = False
        self.acted = False
        self.top: Value = None
        self.persistent_ids: list[Value] = []
        self.constants: list[Span] = []
        self.steps = 0
        self.inline_reads = 0
        self.break_: LexError | None = None
        self._noted: dict[tuple[str, ScanVerdict | None], int] = {}

    def walk(self) -> None:
        """Read opcodes until STOP or a break.

        Raises:
            OutOfStepsError: the budget is spent; what was noted so far stands.
        """
        data, size, stack, pushed = self._data, len(self._data), self._stack, _PUSHED
        while not self.complete:
            if self.steps >= self._steps_left:
                raise OutOfStepsError
            self.steps += 1
            at = self._at
            try:
                name, reader = opcode_at(data, at, size)
                argument, end = reader(data, at + 1)
            except LexError as broken:
                self.break_, self.end = broken, at
                return
            self._at = self.end = end
            if name in pushed and not at < self._frame_end < end:  # most of any pickle: nothing but a constant
                stack.append(argument)
                if isinstance(argument, Span):
                    self.constants.append(argument)
                continue
            self._step(Opcode(name, argument, at, end))

    # -- steps -----------------------------------------------------------------------------------------------------

    def _step(self, opcode: Opcode) -> None:
        if opcode.start < self._frame_end:
            self._check_frame(opcode)
        if opcode.name in _PUSHED:
            argument: Value = opcode.argument
            self._stack.append(argument)
            if isinstance(argument, Span):
                self.constants.append(argument)
            return
        handler = _HANDLERS.get(opcode.name)
        if handler is not None:
            handler(self, opcode)

    def _check_frame(self, opcode: Opcode) -> None:
        """Refuse an opcode that does not end with its frame.

        What then happens differs: the C unpickler, reading from an object without `peek`, drops the rest of the frame
        and takes the argument from behind it, so that `math.os` can be `os`; the one in Python gives up.
        """
        if opcode.end > self._frame_end:
            self._note(
                "EG-SCAN-104", "an opcode crosses the end of its frame: two unpicklers read two programs", opcode
            )
        elif opcode.name == "FRAME":
            self._note("EG-SCAN-104", "a frame inside a frame: two unpicklers read two programs", opcode)
        elif opcode.name == "STOP" and opcode.end != self._frame_end:
            self._note("EG-SCAN-105", "its frame goes on behind it", opcode)

    def _do_frame(self, opcode: Opcode) -> None:
        length = opcode.argument
        if isinstance(length, int):
            self._frame_end = max(self._frame_end, opcode.end + length)

    def _note(self, rule_id: str, message: str, opcode: Opcode, verdict: ScanVerdict | None = None) -> None:
        kind = (rule_id, verdict)
        self._noted[kind] = self._noted.get(kind, 0) + 1
        if self._noted[kind] <= MAX_NOTES_PER_KIND:
            self.notes.append(Note(rule_id, message, opcode.start, verdict))

    def _pop(self) -> Value:
        if not self._stack:
            self._underflow = True
            return Special.UNKNOWN
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Value]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is Special.MARK:
                items = stack[index + 1 :]
                del stack[index:]
                return items
        self._underflow = True
        items = stack[:]
        stack.clear()
        return items

    def _peek(self) -> Value:
        if not self._stack:
            self._underflow = True
            return Special.UNKNOWN
        return self._stack[-1]

    @property
    def underflow(self) -> bool:
        """Whether an opcode needed more than the stack held: an unpickler stops there."""
        return self._underflow

    # -- imports and calls -----------------------------------------------------------------------------------------

    def _import(self, module: Value, name: Value, opcode: Opcode) -> Value:
        if not (isinstance(module, str) and isinstance(name, str)):
            self._note("EG-SCAN-103", "imports a name that is not written as text", opcode)
            return Special.UNKNOWN
        judgement = judge(module, name, self._protocol)
        if judgement.verdict is not ScanVerdict.CLEAN:
            rule = "EG-SCAN-101" if judgement.verdict is ScanVerdict.MALICIOUS else "EG-SCAN-102"
            self.acted |= rule == "EG-SCAN-101" and not self._underflow
            self._note(rule, f"imports {shown(f'{module}.{name}')}: {judgement.reason}", opcode)
        return Import(module, name, judgement)

    def _call(self, callee: Value, arguments: Value, opcode: Opcode) -> Value:
        if isinstance(callee, Import):
            self.acted |= not self._underflow
            for rule_id, message in check_call(callee, arguments):
                self._note(rule_id, message, opcode, ScanVerdict.SUSPICIOUS)
        else:
            self._note("EG-SCAN-104", "calls something that is not a name", opcode, ScanVerdict.SUSPICIOUS)
        return Made(callee, arguments)

    def _change(self, target: Value, opcode: Opcode) -> None:
        """Refuse to fill or set what was imported: it would change the running program."""
        if isinstance(target, Import):
            self._note("EG-SCAN-104", f"changes {shown(f'{target.module}.{target.name}')} itself", opcode)

    # -- one method per group of opcodes ----------------------------------------------------------------------------

    def _do_proto(self, opcode: Opcode) -> None:
        if isinstance(opcode.argument, int):
            self._protocol = opcode.argument
            if opcode.argument > HIGHEST_PROTOCOL:
                self._note("EG-SCAN-105", f"claims protocol {opcode.argument}", opcode)

    def _do_stop(self, opcode: Opcode) -> None:  # noqa: ARG002 - one signature for all handlers
        self.top = self._pop()
        self.complete = True

    def _do_mark(self, opcode: Opcode) -> None:  # noqa: ARG002
        self._stack.append(Special.MARK)

    def _do_pop(self, opcode: Opcode) -> None:  # noqa: ARG002
        self._pop()

    def _do_pop_mark(self, opcode: Opcode) -> None:  # noqa: ARG002
        self._pop_to_mark()

    def _do_dup(self, opcode: Opcode) -> None:  # noqa: ARG002
        self._stack.append(self._peek())

    def _do_put(self, opcode: Opcode) -> None:
        index = len(self._memo) if opcode.name == "MEMOIZE" else opcode.argument
        if isinstance(index, int):
            self._memo[index] = self._peek()
        else:
            self._note("EG-SCAN-105", "a memo index that is no number", opcode)

    def _do_get(self, opcode: Opcode) -> None:
        index = opcode.argument
        if isinstance(index, int) and index in self._memo:
            self._stack.append(self._memo[index])
        else:
            self._note("EG-SCAN-105", "uses a memo entry that was never made", opcode)
            self._stack.append(Special.UNKNOWN)

    def _do_empty(self, opcode: Opcode) -> None:
        made: Value = () if opcode.name == "EMPTY_TUPLE" else Table() if opcode.name == "EMPTY_DICT" else Items()
        self._stack.append(made)

    def _do_group(self, opcode: Opcode) -> None:
        items = self._pop_to_mark()
        if opcode.name == "DICT":
            table = Table()
            _fill(table, items)
            self._stack.append(table)
        else:
            self._stack.append(tuple(items) if opcode.name == "TUPLE" else Items(items))

    def _do_small_tuple(self, opcode: Opcode) -> None:
        items = [self._pop() for _ in range(int(opcode.name[-1]))]
        self._stack.append(tuple(reversed(items)))

    def _do_append(self, opcode: Opcode) -> None:
        items = [self._pop()] if opcode.name == "APPEND" else self._pop_to_mark()
        target = self._peek()
        if isinstance(target, Items):
            target.items.extend(items)
        self._change(target, opcode)

    def _do_setitem(self, opcode: Opcode) -> None:
        if opcode.name == "SETITEM":
            value = self._pop()
            items = [self._pop(), value]
        else:
            items = self._pop_to_mark()
        target = self._peek()
        if isinstance(target, Table):
            _fill(target, items)
        self._change(target, opcode)

    def _do_global(self, opcode: Opcode) -> None:
        if isinstance(opcode.argument, tuple):
            module, name = opcode.argument
            self._stack.append(self._import(module, name, opcode))

    def _do_stack_global(self, opcode: Opcode) -> None:
        name = self._pop()
        self._stack.append(self._import(self._pop(), name, opcode))

    def _do_reduce(self, opcode: Opcode) -> None:
        arguments = self._pop()
        self._stack.append(self._call(self._pop(), arguments, opcode))

    def _do_newobj_ex(self, opcode: Opcode) -> None:
        keywords, arguments = self._pop(), self._pop()
        self._stack.append(self._call(self._pop(), (arguments, keywords), opcode))

    def _do_inst(self, opcode: Opcode) -> None:
        if isinstance(opcode.argument, tuple):
            module, name = opcode.argument
            callee = self._import(module, name, opcode)  # before the arguments are looked for, as in Python's pickle.py
            self._stack.append(self._call(callee, tuple(self._pop_to_mark()), opcode))

    def _do_obj(self, opcode: Opcode) -> None:
        items = self._pop_to_mark()
        callee: Value = items[0] if items else Special.UNKNOWN
        self._stack.append(self._call(callee, tuple(items[1:]), opcode))

    def _do_build(self, opcode: Opcode) -> None:
        state = self._pop()
        target = self._peek()
        self._change(target, opcode)
        if not isinstance(target, Made):
            return
        target.state = state
        inline = self._inline(self._data, target, opcode.end) if self._inline is not None else None
        if inline is None:
            return
        self.inline_reads += 1
        self._at = self.end = inline.end
        if inline.is_pickle:
            self._walk_inline(inline.start)

    def _walk_inline(self, start: int) -> None:
        """Walk the pickle that a loader reads from the same file in the middle of this one."""
        inner = PickleWalker(self._data, start, self._steps_left - self.steps, None)
        try:
            inner.walk()
        finally:
            self.steps += inner.steps
            self.notes += inner.notes
            self.constants += inner.constants
        self._at = self.end = inner.end
        if not inner.complete:
            self.notes.append(Note("EG-SCAN-105", "an object array is cut short", start))

    def _do_persid(self, opcode: Opcode) -> None:
        pid: Value = opcode.argument if opcode.name == "PERSID" else self._pop()
        self.persistent_ids.append(pid)
        self._stack.append(Persistent(pid))

    def _do_ext(self, opcode: Opcode) -> None:
        self._note("EG-SCAN-110", f"imports extension code {opcode.argument}", opcode)
        self._stack.append(Special.UNKNOWN)

    def _do_buffer(self, opcode: Opcode) -> None:
        if opcode.name == "NEXT_BUFFER":
            self._note("EG-SCAN-110", "takes a buffer from outside the file", opcode)
            self._stack.append(Special.UNKNOWN)


def _fill(table: Table, items: list[Value]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=False):
        if isinstance(key, str):
            table.entries[key] = value


_W = PickleWalker
_HANDLERS: Final[dict[str, Callable[[PickleWalker, Opcode], None]]] = {
    "PROTO": _W._do_proto, "FRAME": _W._do_frame, "STOP": _W._do_stop, "MARK": _W._do_mark, "POP": _W._do_pop,
    "POP_MARK": _W._do_pop_mark,
    "DUP": _W._do_dup, "PUT": _W._do_put, "BINPUT": _W._do_put, "LONG_BINPUT": _W._do_put, "MEMOIZE": _W._do_put,
    "GET": _W._do_get, "BINGET": _W._do_get, "LONG_BINGET": _W._do_get, "EMPTY_TUPLE": _W._do_empty,
    "EMPTY_LIST": _W._do_empty, "EMPTY_DICT": _W._do_empty, "EMPTY_SET": _W._do_empty, "TUPLE": _W._do_group,
    "LIST": _W._do_group, "DICT": _W._do_group, "FROZENSET": _W._do_group, "TUPLE1": _W._do_small_tuple,
    "TUPLE2": _W._do_small_tuple, "TUPLE3": _W._do_small_tuple, "APPEND": _W._do_append, "APPENDS": _W._do_append,
    "ADDITEMS": _W._do_append, "SETITEM": _W._do_setitem, "SETITEMS": _W._do_setitem, "GLOBAL": _W._do_global,
    "STACK_GLOBAL": _W._do_stack_global, "REDUCE": _W._do_reduce, "NEWOBJ": _W._do_reduce,
    "NEWOBJ_EX": _W._do_newobj_ex, "INST": _W._do_inst, "OBJ": _W._do_obj, "BUILD": _W._do_build,
    "PERSID": _W._do_persid, "BINPERSID": _W._do_persid, "EXT1": _W._do_ext, "EXT2": _W._do_ext, "EXT4": _W._do_ext,
    "NEXT_BUFFER": _W._do_buffer, "READONLY_BUFFER": _W._do_buffer,
}  # fmt: skip
