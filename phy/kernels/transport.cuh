// What the kernels of the coding chain are told of every transport block; phy/gpu/transport.py fills
// it in, field by field in this order.
#pragma once

constexpr int N_POWERS = 8448;  // bits of the largest code block

// A transport block that was received. Places are those of the circular buffer, which begins behind
// the punctured 2 Z bits.
struct Reception {
    int first_block;       // number of its first code block in the launch
    int n_blocks;          // C
    int first_llr;         // place of its first LLR in the order of transmission
    int n_short;           // code blocks with e_short LLRs; the others, behind them, have e_long
    int e_short, e_long;
    int modulation_order;  // Qm
    int start;             // where the redundancy version starts, fillers not counted
    int buffer_bits;       // N_cb
    int filler_start, filler_end;
    int soft_at;           // where the first code block's soft buffer begins, in units of 16 bytes
    int soft_stride;       // from one code block's soft buffer to the next, in units of 16 bytes
    int n_before;          // places that earlier transmissions have filled
    int n_after;           // places to fill
    int bits_at;           // word of the decoded bits where the first code block begins
    int bits_stride;       // words from one code block's bits to the next one's
    int block_bits;        // K', with CRC, without fillers
    int payload_bits;      // of those, the ones that belong to the transport block and its CRC
    int tb_bits;           // A
    int tb_crc_bits;       // 24 or 16
    int tb_at;             // byte where the transport block is put
    int unused[2];
};

// A transport block that is sent.
struct Transmission {
    int first_block;       // number of its first code block in the launch of its size
    int n_blocks;          // C
    int tb_at;             // byte where it begins, a multiple of 4
    int tb_bits;           // A
    int tb_crc_bits;       // 24 or 16
    int block_bits;        // K', with CRC, without fillers
    int payload_bits;      // of those, the ones that belong to the transport block and its CRC
    int n_rows;            // base-graph rows whose parity bits are sent
    int n_short;           // code blocks with e_short bits; the others, behind them, have e_long
    int e_short, e_long;
    int modulation_order;  // Qm
    int start;             // where the redundancy version starts, fillers not counted
    int buffer_bits;       // N_cb
    int filler_start, filler_end;
    int scrambling_at;     // word where its scrambling sequence begins
    int symbols_at;        // symbol where its first layer begins
    int n_layers;
    int layer_stride;      // symbols from one layer to the next
    int points_at;         // first point of its constellation
    int number;            // of the transport block
    int unused[2];
};

// Bits of the transport block in a code block.
__device__ __forceinline__ int own_bits(const Transmission& tb, int index) {
    const int left = tb.tb_bits - index * tb.payload_bits;
    return left < tb.payload_bits ? left : tb.payload_bits;
}
