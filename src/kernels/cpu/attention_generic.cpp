#include "kernels/cpu/attention_body.h"

namespace purekv {

const AttentionIsa kAttentionGeneric = {
    .accumulate = accumulate, .seed = seed, .columns = columns, .quadratic = quadratic, .gram = add_gram};

}  // namespace purekv
