#include "kernels/mlp.h"

#include <utility>

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/operand.h"
#include "support/cuda.h"
#include "support/device_weight.h"

namespace purekv {
namespace {

constexpr std::int64_t kHidden = 192;
constexpr std::int64_t kFfn = 208;
constexpr std::int64_t kSpareRows = 3;  ///< of the work memory, behind the rows of a call

/// x, what lies between the products and the residual stream are rounded to bf16: 4e-5 at one row.
constexpr double kBound = 2e-4;
/// x and what lies between the products are rounded to e4m3: 2.5e-3 at one row.
constexpr double kFp8Bound = 6e-3;

/// What makes the gated half.
enum class Path { kGemv, kOneKernel, kTwoProducts };

struct Case {
  std::int64_t rows;
  bool norm = true;  ///< of the residual stream itself; else x is apart from it
  bool wide = false, fp8 = false;
  bool bias = false;   ///< fp8: of the gated half only
  bool has_up = true;  ///< the caller gives memory for x U^T
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.rows << " rows" << (c.norm ? ", norm" : "") << (c.wide ? ", float32" : "") << (c.bias ? ", bias" : "")
             << (c.fp8 ? ", fp8" : "") << (c.has_up ? "" : ", no up_work");
}

/// Rows of 16 bits or of float32 on the device, and their values on the host.
struct Rows {
  std::vector<float> values;
  std::vector<std::uint16_t> bits;
  bool wide;

  Rows(std::int64_t rows, bool is_wide, std::mt19937& random)
      : values(normal_floats(rows * kHidden, random)), bits(round_to_bf16(values)), wide(is_wide) {}
  [[nodiscard]] DType dtype() const { return wide ? DType::kF32 : DType::kBF16; }
  [[nodiscard]] Buffer device(const Context& context) const {
    return wide ? to_device(context, values) : to_device(context, bits);
  }
};

class CudaMlp : public CudaTest {
 protected:
  /// Weights of one MLP and the rows that pass it.
  struct Problem {
    Case size;
    DeviceWeight gate, up, down;
    std::vector<float> norm;
    Rows x, before;  ///< x only where it is apart from the residual stream
    Buffer device_norm, device_x;
  };

  /// What a call on the device works with.
  struct Call {
    Buffer out, gate, up, normed;
    MlpParams params;
  };

  Problem make(const Case& c) {
    Problem p{c,
              DeviceWeight(context_, kFfn, kHidden, c.fp8, random_, 0.1F),
              DeviceWeight(context_, kFfn, kHidden, c.fp8, random_, 0.1F),
              DeviceWeight(context_, kHidden, kFfn, c.fp8, random_),
              normal_floats(kHidden, random_),
              Rows(c.rows, c.wide, random_),
              Rows(c.rows, c.wide, random_),
              {},
              {}};
    p.device_norm = to_device(context_, p.norm);
    p.device_x = p.x.device(context_);
    return p;
  }

  [[nodiscard]] Call call_of(const Problem& p) const {
    const Case& c = p.size;
    const std::int64_t work_rows = c.rows + kSpareRows;
    Call call{p.before.device(context_), poisoned(context_, work_rows * kFfn * 2),
              poisoned(context_, work_rows * kFfn * 2), poisoned(context_, work_rows * kHidden * 2), MlpParams()};
    const MatrixView out{call.out.data(), p.before.dtype(), c.rows, kHidden, kHidden};
    const MatrixView up{call.up.data(), DType::kBF16, work_rows, kFfn, kFfn};
    call.params = {.x = {p.device_x.data(), p.x.dtype(), c.rows, kHidden, kHidden},
                   .norm = {},
                   .gate = p.gate.operand(c.bias),
                   .up = p.up.operand(c.bias),
                   .down = p.down.operand(c.bias && !c.fp8),
                   .gate_work = {call.gate.data(), DType::kBF16, work_rows, kFfn, kFfn},
                   .up_work = c.has_up ? up : MatrixView(),
                   .out = out};
    if (c.norm) {
      call.params.x = out;
      call.params.norm = {.weight = p.device_norm.as<float>(),
                          .work = {call.normed.data(), DType::kBF16, work_rows, kHidden, kHidden}};
    }
    return call;
  }

  [[nodiscard]] Path path_of(const MlpParams& p) const {
    const GatedLinearParams gated{
        .x = p.x, .norm = p.norm, .gate = p.gate, .up = p.up, .out = p.gate_work.slice(0, p.x.rows), .work = p.up_work};
    if (cuda::gated_gemv_takes(context_, gated)) return Path::kGemv;
    const cuda::Operand x = cuda::prepare(context_, p.x, p.norm, p.gate.weight.dtype);
    return cuda::fuses_gated(context_, x, gated) ? Path::kOneKernel : Path::kTwoProducts;
  }

  /// The residual stream, and nothing behind the rows of the call is written.
  [[nodiscard]] std::vector<float> result_of(const Problem& p, const Call& call) const {
    const std::int64_t rows = p.size.rows;
    for (const auto& [work, cols] : {std::pair{&call.gate, kFfn}, {&call.up, kFfn}, {&call.normed, kHidden}}) {
      const auto* spare = work->as<std::uint16_t>() + rows * cols;
      for (const std::uint16_t bits : to_host<std::uint16_t>(context_, spare, kSpareRows * cols))
        EXPECT_EQ(bits, 0xFFFF) << "behind the rows of the call";
    }
    if (p.before.wide) return to_host<float>(context_, call.out.data(), rows * kHidden);
    return widen(to_host<std::uint16_t>(context_, call.out.data(), rows * kHidden));
  }

  std::vector<float> on_host(const Problem& p) const {
    const std::int64_t rows = p.size.rows;
    std::vector<float> out = p.before.values;
    std::vector<float> normed(out.size());
    std::vector<float> gate(static_cast<std::size_t>(rows * kFfn));
    std::vector<float> up = gate;
    const Rows& x = p.size.norm ? p.before : p.x;
    mlp(cpu_, {.x = {x.values.data(), DType::kF32, rows, kHidden, kHidden},
               .norm = {.weight = p.size.norm ? p.norm.data() : nullptr,
                        .work = {normed.data(), DType::kF32, rows, kHidden, kHidden}},
               .gate = p.gate.host_operand(p.size.bias),
               .up = p.up.host_operand(p.size.bias),
               .down = p.down.host_operand(p.size.bias && !p.size.fp8),
               .gate_work = {gate.data(), DType::kF32, rows, kFfn, kFfn},
               .up_work = {up.data(), DType::kF32, rows, kFfn, kFfn},
               .out = {out.data(), DType::kF32, rows, kHidden, kHidden}});
    return out;
  }

  /// Of what the MLP adds, so that the residual stream hides nothing.
  double error_of(const Problem& p, std::vector<float> got) const {
    std::vector<float> want = on_host(p);
    for (std::size_t i = 0; i < got.size(); ++i) {
      got[i] -= p.before.values[i];
      want[i] -= p.before.values[i];
    }
    return nmse(got, want);
  }

  void expect_near(const Case& c, Path path) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p = make(c);
    const Call call = call_of(p);
    const bool hopper = context_.cuda->capability == 90;
    ASSERT_EQ(path_of(call.params), path == Path::kOneKernel && !hopper ? Path::kTwoProducts : path);
    mlp(context_, call.params);
    const std::vector<float> got = result_of(p, call);
    EXPECT_LT(error_of(p, got), c.fp8 && path != Path::kGemv ? kFp8Bound : kBound);
    if (hopper && path == Path::kOneKernel) {
      const std::vector<std::uint16_t> poison(static_cast<std::size_t>(c.rows * kFfn), 0xFFFF);
      EXPECT_EQ(to_host<std::uint16_t>(context_, call.up.data(), c.rows * kFfn), poison) << "x U^T is not stored";
    }
    const Call again = call_of(p);
    mlp(context_, again.params);
    EXPECT_EQ(result_of(p, again), got) << "the same bits from run to run";
  }

  /// With and without norm, biases and memory for x U^T; the residual stream in bf16 and in float32.
  void expect_all_near(std::int64_t rows, bool fp8, Path path) {
    for (const bool norm : {true, false})
      for (const bool wide : {true, false})
        for (const bool has_up : {true, false})
          expect_near({.rows = rows, .norm = norm, .wide = wide, .fp8 = fp8, .has_up = has_up}, path);
    // The kernel has either scales or biases.
    const Path with_bias = fp8 && path == Path::kOneKernel ? Path::kTwoProducts : path;
    for (const bool has_up : {true, false})
      expect_near({.rows = rows, .wide = !has_up, .fp8 = fp8, .bias = true, .has_up = has_up}, with_bias);
  }

  /// A chunk's rows and then the last ones, with the memory of a chunk, as the vision tower calls it.
  std::vector<float> in_two_calls(const Problem& p, std::int64_t first) const {
    const Call call = call_of(p);
    MlpParams params = call.params;
    for (const auto& [begin, count] : {std::pair{std::int64_t{0}, first}, {first, p.size.rows - first}}) {
      params.out = call.params.out.slice(begin, count);
      params.x = call.params.x.slice(begin, count);
      EXPECT_EQ(path_of(params) == Path::kOneKernel, context_.cuda->capability == 90 && count >= 256) << count;
      mlp(context_, params);
    }
    return result_of(p, call);
  }

  std::mt19937 random_{41};
};

TEST_F(CudaMlp, FewRows) {
  for (const std::int64_t rows : {1, 2, 9, 16}) expect_all_near(rows, false, Path::kGemv);
}

TEST_F(CudaMlp, TwoProducts) {
  for (const std::int64_t rows : {17, 100, 255}) expect_all_near(rows, false, Path::kTwoProducts);
}

TEST_F(CudaMlp, OneKernel) {
  for (const std::int64_t rows : {256, 300, 513}) expect_all_near(rows, false, Path::kOneKernel);
}

/// Up to 16 rows stay bf16 beside fp8 weights; of more, x and what lies between the products are rounded to e4m3.
TEST_F(CudaMlp, Fp8) {
  if (!has_fp8(context_)) GTEST_SKIP() << "no fp8 arithmetic";
  for (const std::int64_t rows : {1, 16}) expect_all_near(rows, true, Path::kGemv);
  for (const std::int64_t rows : {17, 255}) expect_all_near(rows, true, Path::kTwoProducts);
  for (const std::int64_t rows : {256, 513}) expect_all_near(rows, true, Path::kOneKernel);
  // The gated kernel stores e4m3.
  for (const bool norm : {true, false})
    expect_near({.rows = 4097, .norm = norm, .wide = norm, .fp8 = true, .has_up = false}, Path::kOneKernel);
}

/// Memory for x U^T is spared where the first call needs none; a short last call takes its own.
TEST_F(CudaMlp, AShortLastCallWithoutUpWork) {
  for (const bool fp8 : {false, true}) {
    if (fp8 && !has_fp8(context_)) continue;
    for (const std::int64_t rest : {1, 16, 17, 44, 255})
      for (const bool norm : {true, false}) {
        const Problem p = make({.rows = 300 + rest, .norm = norm, .fp8 = fp8, .has_up = false});
        SCOPED_TRACE(testing::Message() << p.size);
        const std::vector<float> got = in_two_calls(p, 300);
        EXPECT_LT(error_of(p, got), fp8 ? kFp8Bound : kBound);
        EXPECT_EQ(in_two_calls(p, 300), got) << "the same bits from run to run";
      }
  }
}

TEST_F(CudaMlp, SaysWhereXTimesUpIsStored) {
  const bool hopper = context_.cuda->capability == 90;
  for (const std::int64_t rows : {1, 16, 255}) EXPECT_TRUE(mlp_stores_up(context_, rows, kHidden, kFfn)) << rows;
  for (const std::int64_t rows : {256, 16384}) {
    EXPECT_EQ(mlp_stores_up(context_, rows, kHidden, kFfn), !hopper) << rows;
    EXPECT_EQ(mlp_stores_up(context_, rows, 3584, 18944), !hopper || rows < 384) << rows << ", several waves";
    EXPECT_EQ(mlp_stores_up(context_, rows, 1280, 3424), !hopper) << rows;
    EXPECT_TRUE(mlp_stores_up(context_, rows, kHidden, kFfn + 4)) << rows << ", ffn off 16 bytes";
    EXPECT_TRUE(mlp_stores_up(context_, rows, kHidden + 4, kFfn)) << rows << ", hidden off 16 bytes";
  }
}

}  // namespace
}  // namespace purekv
