"""A forward pass as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from composer.eject.expressions import written
from composer.eject.forward import Forward, Statement
from composer.eject.layout import WIDTH, Bracketed, Text, laid, noted
from composer.inference import Program
from composer.liveness import ids_of

Note = Callable[[str], str]
"""The comment about a node, by its address."""


def of_region(forward: Forward, note: Note) -> Iterator[str]:
    """The `forward` of a node."""
    types = forward.types
    result = types[0] if len(types) == 1 else f"tuple[{', '.join(types)}]"
    yield from _head([f"{n}: {k}" for n, k in forward.arguments], result)
    yield from _returning(forward.statements, note, ", ".join(forward.returns))


def of_network(forward: Forward, note: Note, program: Program) -> Iterator[str]:
    """The `forward` of the whole network: optional inputs may be left out, several outputs are a dictionary."""
    yield from _head(_inputs(forward, program), _result(program))
    texts = dict(zip(dict.fromkeys(i for o in program.outputs for i in ids_of(o.ids)), forward.returns, strict=True))
    if len(program.outputs) == 1:
        (output,) = program.outputs
        text = _structure(output.ids, texts)
        yield from _returning(
            forward.statements, note, f"{text} if self.training else None" if output.training else text
        )
        return
    for statement in forward.statements:
        yield from _statement(statement, note, 8)
    always = tuple(_pair(o.name, _structure(o.ids, texts)) for o in program.outputs if not o.training)
    later = {o.name: _structure(o.ids, texts) for o in program.outputs if o.training}
    yield from laid("results = " if later else "return ", Bracketed("{", always, "}"), "", 8)
    if later:
        yield "        if self.training:"
        for name, text in later.items():
            yield from laid(f"results[{written(name)}] = ", text, "", 12)
        yield "        return results"


def _head(arguments: Sequence[str], result: str) -> Iterator[str]:
    yield from laid("", Bracketed("def forward(", ("self", *arguments), f") -> {result}:"), "", 4)


def _inputs(forward: Forward, program: Program) -> list[str]:
    """After one that may be left out all can be."""
    optional = [i.optional for i in program.inputs]
    may = [any(optional[: k + 1]) for k in range(len(optional))]
    names = [name for name, _ in forward.arguments]
    return [f"{name}: Tensor{' | None = None' * m}" for name, m in zip(names, may, strict=True)]


def _result(program: Program) -> str:
    single = all(isinstance(o.ids, int) for o in program.outputs)
    if len(program.outputs) > 1:
        return "dict[str, Tensor]" if single else "dict[str, Any]"
    return "Tensor" if single and not program.outputs[0].training else "Any"


def _returning(statements: Sequence[Statement], note: Note, result: Text) -> Iterator[str]:
    """Statements, the last of which may be what is returned."""
    last = statements[-1] if statements else None
    ends = last is not None and last.target == result and not last.test and last.body is None
    for statement in statements[:-1] if ends else statements:
        yield from _statement(statement, note, 8)
    if ends and last is not None:
        yield from noted(laid("return ", last.text, "", 8), _note(last, note), 8)
    else:
        yield from laid("return ", result, "", 8)


def _statement(s: Statement, note: Note, indent: int) -> Iterator[str]:
    space = " " * indent
    if s.body is not None:
        yield f"{space}for {s.target} in {s.text}:"
        yield from _statement(s.body, note, indent + 4)
    elif not s.test:
        yield from noted(laid(f"{s.target} = ", s.text, "", indent), _note(s, note), indent)
    else:
        nothing = "None" if "," not in s.target else f"({', '.join('None' for _ in s.target.split(','))})"
        line = f"{space}{s.target} = {s.text} if {s.test} else {nothing}"
        if len(line) <= WIDTH:
            yield from noted([line], _note(s, note), indent)
        else:
            yield f"{space}{s.target} = {nothing}"
            yield f"{space}if {s.test}:"
            yield from noted(laid(f"{s.target} = ", s.text, "", indent + 4), _note(s, note), indent + 4)


def _note(statement: Statement, note: Note) -> str:
    """A comment where no module has one."""
    return note(statement.step.address) if statement.step is not None and not statement.path else ""


def _pair(name: str, text: Text) -> Text:
    if isinstance(text, Bracketed):
        return Bracketed(f"{written(name)}: {text.head}", text.items, text.tail)
    return f"{written(name)}: {text}"


def _structure(ids: Any, texts: Mapping[int, str]) -> Text:
    """An output as it is delivered, in dictionaries and lists."""
    if isinstance(ids, dict):
        return Bracketed("{", tuple(_pair(str(k), _structure(v, texts)) for k, v in ids.items()), "}")
    if isinstance(ids, (list, tuple)):
        return Bracketed("[", tuple(_structure(v, texts) for v in ids), "]")
    return "None" if ids is None else texts[ids]
