#include "kernels/patchify.h"

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

/// One value a thread: reads a byte, of which a warp's share two or three rows of a patch, and writes four.
struct Patchify {
  const std::uint8_t* frames;
  const float* lookup;
  MatrixView out;
  int temporal, height, width, patch, merge;

  __device__ void operator()(std::int64_t row, int value) const {
    const int grid_w = width / patch;
    const int rows = height / patch * grid_w;
    const std::int64_t slice = row / rows;
    const auto at = static_cast<int>(row - slice * rows);
    const int cell = at / (merge * merge);
    const int inside = at % (merge * merge);
    const int cols = grid_w / merge;
    const int x = value % patch;
    const int y = value / patch % patch;
    const int frame = value / (patch * patch) % temporal;
    const int channel = value / (patch * patch * temporal);
    const int from_y = (cell / cols * merge + inside / merge) * patch + y;
    const int from_x = (cell % cols * merge + inside % merge) * patch + x;
    const std::uint8_t byte = frames[(((slice * temporal + frame) * height + from_y) * width + from_x) * 3 + channel];
    row_of<float>(out, row)[value] = lookup[channel * 256 + byte];
  }
};

}  // namespace

void patchify(const Context& context, const PatchifyParams& p) {
  const Patchify op{p.frames,
                    p.lookup,
                    p.out,
                    static_cast<int>(p.temporal),
                    static_cast<int>(p.height),
                    static_cast<int>(p.width),
                    static_cast<int>(p.patch),
                    static_cast<int>(p.merge)};
  launch_units(context, op, p.out.rows, p.out.cols, "cutting frames into patches");
}

}  // namespace purekv::cuda
