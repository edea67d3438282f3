"""Small pieces of C text: types, index tables, indentation."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pockengine.ir.types import DType

CTYPE: dict[DType, str] = {
    "f32": "float",
    "bf16": "uint16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "u8": "unsigned char",
    "bool": "unsigned char",
}


CONV_FIELDS = (  # of a pk_conv
    *("n", "h", "w", "c", "oh", "ow", "o", "kh", "kw"),
    *("sh", "sw", "ph", "pw", "dh", "dw", "groups"),
)


def conv_geometry(fields: Sequence[int]) -> str:
    """The C definition of `g`, a pk_conv."""
    assert len(fields) == len(CONV_FIELDS)
    return f"static const pk_conv g = {{{', '.join(map(str, fields))}}};"


@dataclass
class Tables:
    """The constant index tables of a unit, each written once."""

    names: dict[tuple[int, ...], str] = field(default_factory=dict)

    def name(self, indices: tuple[int, ...]) -> str:
        return self.names.setdefault(indices, f"table_{len(self.names)}")

    def text(self) -> list[str]:
        """Their definitions."""
        return [
            f"static const int32_t {name}[] = {{{', '.join(map(str, indices))}}};"
            for indices, name in self.names.items()
        ]


def indented(lines: list[str]) -> str:
    """Joins statements, indenting by braces."""
    depth, out = 0, []
    for line in lines:
        depth -= line.startswith("}")
        out.append(line if line.startswith("#") else "  " * depth + line)
        depth += line.count("{") - line.count("}") + line.startswith("}")
    return "\n".join(out)
