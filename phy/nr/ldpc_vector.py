"""Explicit vectors of 32 16-bit integers for Numba kernels.

A compiler rarely keeps a whole chain of 16-bit operations in full vector registers by itself, so
the LDPC kernel says what it wants. LLVM lowers these vectors to whatever the processor has: one
register with AVX-512, two with AVX2, four with SSE or NEON. Offsets into arrays are not checked.
"""

# mypy: disable-error-code="untyped-decorator,misc,import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

N_LANES = 32
_SCALAR = ir.IntType(16)
_VECTOR = ir.VectorType(_SCALAR, N_LANES)


class Lanes(types.Type):
    """Numba's type of one vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)


_LANES = Lanes()


def _operation(emit: Callable[..., Any], n_operands: int) -> Any:
    """Makes a Numba function of vectors from one that emits instructions."""

    def generate(_context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        return emit(builder, *operands)

    signature = _LANES(*[_LANES] * n_operands)
    typings = {
        1: lambda _typing, _a: (signature, generate),
        2: lambda _typing, _a, _b: (signature, generate),
        3: lambda _typing, _a, _b, _c: (signature, generate),
        4: lambda _typing, _a, _b, _c, _d: (signature, generate),
    }
    return intrinsic(typings[n_operands])


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


@intrinsic
def load(_typing: Any, array: Any, _offset: Any) -> Any:
    """The 32 elements of an int16 array from `offset` on."""

    def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        vector = builder.load(_pointer(context, builder, signature.args[0], *operands))
        vector.align = 2
        return vector

    return _LANES(array, types.int64), generate


@intrinsic
def store(_typing: Any, array: Any, _offset: Any, vector: Any) -> Any:
    """Writes the vector to an int16 array from `offset` on."""

    def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *operands[:2])
        builder.store(operands[2], pointer).align = 2
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def splat(_typing: Any, _value: Any) -> Any:
    """The same int16 value in all lanes."""

    def generate(_context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, operands[0], ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), N_LANES), [0] * N_LANES)
        return builder.shuffle_vector(first, undefined, zeros)

    return _LANES(types.int16), generate


@intrinsic
def any_negative(_typing: Any, vector: Any) -> Any:
    """True if at least one lane is below zero."""

    def generate(_context: Any, builder: Any, _signature: Any, operands: Any) -> Any:
        below = builder.icmp_signed("<", operands[0], _VECTOR(None))
        lanes = builder.bitcast(below, ir.IntType(N_LANES))
        return builder.icmp_unsigned("!=", lanes, ir.IntType(N_LANES)(0))

    return types.boolean(vector), generate


def _minimum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _where_equal(builder: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    return builder.select(builder.icmp_signed("==", a, b), then, otherwise)


def _negate_where_negative(builder: Any, a: Any, sign: Any) -> Any:
    negative = builder.icmp_signed("<", sign, _VECTOR(None))
    return builder.select(negative, builder.neg(a), a)


add = _operation(lambda builder, a, b: builder.add(a, b), 2)
subtract = _operation(lambda builder, a, b: builder.sub(a, b), 2)
multiply = _operation(lambda builder, a, b: builder.mul(a, b), 2)
shift_right = _operation(lambda builder, a, b: builder.ashr(a, b), 2)
bits_or = _operation(lambda builder, a, b: builder.or_(a, b), 2)
bits_xor = _operation(lambda builder, a, b: builder.xor(a, b), 2)
minimum = _operation(_minimum, 2)
maximum = _operation(_maximum, 2)
magnitude = _operation(lambda builder, a: _maximum(builder, a, builder.neg(a)), 1)
where_equal = _operation(_where_equal, 4)
negate_where_negative = _operation(_negate_where_negative, 2)
