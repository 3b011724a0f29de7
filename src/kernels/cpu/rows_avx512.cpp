#include "kernels/cpu/rows_body.h"

namespace purekv {

const RowsIsa kRowsAvx512 = {.name = "avx512",
                             .rms_norm = rms_norm_row,
                             .swiglu = swiglu_row,
                             .gelu = gelu_row,
                             .rope = rope_row,
                             .widen = widen_row};

}  // namespace purekv
