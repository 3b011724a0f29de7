#include "kernels/cpu/linear_body.h"
#include "kernels/cpu/linear_stream.h"

namespace purekv {

const LinearIsa kLinearAvx512 = {.name = "avx512",
                                 .tile_rows = kTileRows,
                                 .tile_cols = kTileCols,
                                 .depth = kDepth,
                                 .element = sizeof(float),
                                 .pack_x = pack_x,
                                 .pack_weight = pack_weight,
                                 .multiply = multiply_block,
                                 .stream = stream};

}  // namespace purekv
