#pragma once

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/choose_token.h"
#include "kernels/decode_attention.h"
#include "kernels/decode_begin.h"
#include "kernels/embed.h"
#include "kernels/gather.h"
#include "kernels/join_scores.h"
#include "kernels/linear.h"
#include "kernels/mlp.h"
#include "kernels/patchify.h"
#include "kernels/permute_rows.h"
#include "kernels/quantize.h"
#include "kernels/random_bits.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/rope_attention.h"
#include "kernels/rope_linear.h"
#include "kernels/rope_table.h"
#include "kernels/score.h"
#include "kernels/top_rows.h"
#include "kernels/value_norm.h"

/// The CUDA twins of the operations, one file a stem; only the dispatch in kernels/x.cpp calls them.
namespace purekv::cuda {

void attention(const Context& context, const AttentionParams& params);
void choose_token(const Context& context, const ChooseTokenParams& params);
void decode_attention(const Context& context, const DecodeAttentionParams& params);
std::int64_t decode_attention_work(const Context& context, const HeadShape& shape, std::int64_t sequences,
                                   std::int64_t most_rows);
void decode_begin(const Context& context, const DecodeBeginParams& params);
void decode_end(const Context& context, const DecodeEndParams& params);
void embed(const Context& context, const EmbedParams& params);
void frame_score(const Context& context, const FrameScoreParams& params);
void gated_linear(const Context& context, const GatedLinearParams& params);
void gather_rows(const Context& context, const GatherParams& params);
void gelu(const Context& context, const MatrixView& x);
void gram(const Context& context, const GramParams& params);
void join_scores(const Context& context, const JoinScoresParams& params);
void linear(const Context& context, const LinearParams& params);
void mlp(const Context& context, const MlpParams& params);
/// Whether rows are enough for the kernel that makes the gated half of an MLP at once.
bool gated_in_one(const Context& context, std::int64_t rows, std::int64_t in, std::int64_t out);
void pack_gram(const Context& context, const HeadShape& shape, const float* gram, void* packed);
std::int64_t packed_gram_bytes(const Context& context, const HeadShape& shape);
void patchify(const Context& context, const PatchifyParams& params);
void permute_rows(const Context& context, const PermuteRowsParams& params);
void quantize_rows(const Context& context, const QuantizeParams& params);
void random_bits(const Context& context, const MatrixView& out, float magnitude, std::uint64_t seed);
void random_normal(const Context& context, const MatrixView& out, std::uint64_t seed);
void rms_norm(const Context& context, const RmsNormParams& params);
void rope_attention(const Context& context, const RopeAttentionParams& params);
bool rope_attention_takes(const Context& context, const RopeAttentionParams& params);
void rope_linear(const Context& context, const RopeLinearParams& params);
/// Whether one kernel makes a projection and its rotation: rows enough, a head_dim that it knows.
bool rope_in_one(const Context& context, const HeadShape& shape, std::int64_t rows, std::int64_t in);
void rope_split(const Context& context, const RopeSplitParams& params);
void rope_table(const Context& context, const RopeTableParams& params);
void swiglu(const Context& context, const MatrixView& gate, const ConstMatrixView& up);
void top_rows(const Context& context, const TopRowsParams& params);
void value_norm(const Context& context, const ValueNormParams& params);
void window_score(const Context& context, const WindowScoreParams& params);

}  // namespace purekv::cuda
