// Arithmetic on a pair of binary16 numbers in one 32-bit word, one for each of two code blocks.
//
// The instructions are named one by one (PTX), so no header of the CUDA toolkit is needed and the
// NumPy twin can say exactly what is rounded where. Compiled for the host (AIRAN_ON_HOST), the
// same functions come from the tests' own emulation of a thread block.
#pragma once

typedef unsigned int Pair;

constexpr Pair SIGNS = 0x80008000u;

#ifndef AIRAN_ON_HOST

__device__ __forceinline__ Pair add(Pair a, Pair b) {
    Pair d;
    asm("add.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ Pair subtract(Pair a, Pair b) {
    Pair d;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// a * b + c, rounded once.
__device__ __forceinline__ Pair fma(Pair a, Pair b, Pair c) {
    Pair d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ Pair smaller(Pair a, Pair b) {
    Pair d;
    asm("min.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ Pair larger(Pair a, Pair b) {
    Pair d;
    asm("max.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ Pair magnitude(Pair a) {
    Pair d;
    asm("abs.f16x2 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}

// a - b where that is positive, else 0.
__device__ __forceinline__ Pair excess(Pair a, Pair b) {
    Pair d;
    asm("fma.rn.relu.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(b), "r"(0xbc00bc00u), "r"(a));
    return d;
}

// 1.0 where a equals b, else 0.0.
__device__ __forceinline__ Pair equal(Pair a, Pair b) {
    Pair d;
    asm("set.eq.f16x2.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// Bytes of (b:a) as the four digits of `digits` choose, the lowest digit for the lowest byte.
__device__ __forceinline__ unsigned bytes(unsigned a, unsigned b, unsigned digits) {
    return __byte_perm(a, b, digits);
}

#endif

// The same whole number, up to 2048, in both halves.
__device__ constexpr Pair both(int value) {
    // Shift the leading one to bit 10 and count the exponent on the way.
    unsigned bits = value < 0 ? -value : value;
    if (bits == 0) return 0;
    unsigned exponent = 25;
    while (bits < 1024) bits <<= 1, --exponent;
    while (bits >= 2048) bits >>= 1, ++exponent;
    const unsigned half = (value < 0 ? 0x8000u : 0u) | exponent << 10 | (bits & 1023);
    return half << 16 | half;
}
