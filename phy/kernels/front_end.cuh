// What the front end's kernels share: the structures that phy/gpu/front_end_layout.py packs.
// All fields are four bytes wide, so host and device agree on the layout without padding.
#pragma once

#include <cuda_fp16.h>

// Numbers of receive antennas that kernels are wanted for, added up: fewer compile faster.
#ifndef ANTENNAS
#define ANTENNAS (2 | 4 | 8 | 16)
#endif

const int MAX_POSITIONS = 4;
const int MAX_CODES = 4;
const int MAX_PAIRS = 6;
const int N_SYMBOLS = 14;

// One UE of the slot. Described field by field in phy/gpu/front_end_layout.py.
struct Ue {
  int grid_offset;
  int grid_width;
  int n_rx;
  int first_subcarrier;
  int n_subcarriers;
  int n_layers;
  int n_positions;
  int dmrs_length;
  int dmrs_symbol[MAX_POSITIONS];
  int n_codes;
  int code_comb[MAX_CODES];
  int code_sign[MAX_CODES];
  int code_layer[MAX_CODES][2];
  int code_filter[MAX_CODES];
  int slot_number;
  int pilot_n_id;
  int pilot_n_scid;
  int pilot_first_chunk;
  int pilot_first_bit;
  int pilot_offset;
  int pilot_stride;
  float pilot_scale;
  int n_groups_without_data;
  int n_data_symbols;
  int data_symbol[N_SYMBOLS];
  int data_start[N_SYMBOLS];
  int data_step[N_SYMBOLS];
  int modulation_order;
  int llr_offset;
  float llr_scale;
  int scrambling_offset;
  int scrambling_c_init;
  int n_coded_bits;
  float noise_var;
  float estimate_gain;
  float residual_part[MAX_CODES];
  int channel_offset;
  int is_irc;
  float time_weights[N_SYMBOLS][MAX_POSITIONS][2];
};

// What a slot says about one UE.
struct UeResult {
  float position_power[MAX_POSITIONS];
  float product[MAX_PAIRS][2];
  float measured_noise_var;
  float noise_var;
  float symbol_noise_var;
  float capacity;
  int is_bad;
};

__device__ __forceinline__ bool is_finite(float value) { return fabsf(value) < 3.4e38f; }

// Copies the UE's description to shared memory; the caller synchronises.
__device__ __forceinline__ void fetch(Ue* to, const Ue* from, int thread, int n_threads) {
  const int* source = reinterpret_cast<const int*>(from);
  int* target = reinterpret_cast<int*>(to);
  for (int i = thread; i < int(sizeof(Ue) / 4); i += n_threads) target[i] = source[i];
}

// The least-squares estimate at one pilot: what arrived, turned back by the pilot. `word_bits` are
// the pilot's two Gold bits; 1 / (sqrt(2) beta) is applied by the caller.
__device__ __forceinline__ float2 turn_back(float2 sample, unsigned word_bits) {
  const float in_phase = (word_bits & 1u) ? -1.0f : 1.0f;
  const float quadrature = (word_bits & 2u) ? -1.0f : 1.0f;
  return make_float2(sample.x * in_phase + sample.y * quadrature,
                     sample.y * in_phase - sample.x * quadrature);
}

// Least-squares estimate at pilot `pilot` of a DM-RS position, times `pilot_scale`. `comb` is the
// CDM group's first subcarrier, `sign` the cover of a position's second symbol; covers in frequency
// stay in.
__device__ __forceinline__ float2 least_squares(const Ue& ue, const __half2* grid,
                                                const unsigned* pilots, int comb, int sign,
                                                int position, int rx, int pilot) {
  const int subcarrier = ue.first_subcarrier + 2 * pilot + comb;
  const int bit = ue.pilot_first_bit + 2 * pilot, shift = bit & 31;
  const int word = ue.pilot_offset + position * ue.dmrs_length * ue.pilot_stride + (bit >> 5);
  const __half2* sample = grid + ue.grid_offset + subcarrier +
                          (rx * N_SYMBOLS + ue.dmrs_symbol[position]) * ue.grid_width;
  float2 sum = turn_back(__half22float2(*sample), pilots[word] >> shift);
  if (ue.dmrs_length == 2) {
    const float2 second = turn_back(__half22float2(sample[ue.grid_width]),
                                    pilots[word + ue.pilot_stride] >> shift);
    sum.x += float(sign) * second.x;
    sum.y += float(sign) * second.y;
  }
  return make_float2(sum.x * ue.pilot_scale, sum.y * ue.pilot_scale);
}

// Layers of one subcarrier lie side by side, so that one load takes them all; three take the room
// of four.
__device__ __forceinline__ int layer_stride(const Ue& ue) {
  return ue.n_layers == 3 ? 4 : ue.n_layers;
}

// Where a UE's channel lies: [position][rx][subcarrier][layer].
__device__ __forceinline__ unsigned channel_index(const Ue& ue, int position, int rx,
                                                  int subcarrier) {
  return unsigned(ue.channel_offset) +
         unsigned((position * ue.n_rx + rx) * ue.n_subcarriers + subcarrier) * layer_stride(ue);
}

// Adds a * b, and conj(a) * b, to a complex sum.
__device__ __forceinline__ void add_product(float2& sum, float2 a, float2 b) {
  sum.x = fmaf(a.x, b.x, sum.x);
  sum.x = fmaf(-a.y, b.y, sum.x);
  sum.y = fmaf(a.x, b.y, sum.y);
  sum.y = fmaf(a.y, b.x, sum.y);
}

__device__ __forceinline__ void add_conjugate_product(float2& sum, float2 a, float2 b) {
  add_product(sum, make_float2(a.x, -a.y), b);
}

// Covariances are taken over subbands of about 8 PRB, as in phy/receiver/covariance.py; their
// bounds lie on whole pilots.
const int MAX_SUBBANDS = 34;

__device__ __forceinline__ int subbands(const Ue& ue) { return max(1, ue.n_subcarriers / 96); }

__device__ __forceinline__ int first_pilot_of(const Ue& ue, int subband) {
  return subband * (ue.n_subcarriers >> 1) / subbands(ue);
}

__device__ __forceinline__ int subband_of(const Ue& ue, int subcarrier) {
  const int n_pilots = ue.n_subcarriers >> 1;
  return (((subcarrier >> 1) + 1) * subbands(ue) - 1) / n_pilots;
}

// A subband's whitening: 1 / noise, unused, then the rows of the lower triangle.
const int WHITENING_STRIDE = 2 + 16 * 17;
