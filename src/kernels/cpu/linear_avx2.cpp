#include "kernels/cpu/linear_body.h"
#include "kernels/cpu/linear_stream.h"

namespace purekv {

const LinearIsa kLinearAvx2 = {.name = "avx2",
                               .tile_rows = kTileRows,
                               .tile_cols = kTileCols,
                               .depth = kDepth,
                               .element = sizeof(float),
                               .pack_x = pack_x,
                               .pack_weight = pack_weight,
                               .multiply = multiply_block,
                               .stream = stream};

}  // namespace purekv
