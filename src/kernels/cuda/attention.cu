#include "kernels/attention.h"

#include "device/cuda/cuda_device.h"
#include "kernels/cuda/attention_sm80.h"
#include "kernels/cuda/attention_sm90.h"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {

void attention(const Context& context, const AttentionParams& params) {
  if (context.cuda->capability >= 90 && attention_sm90_takes(context, params))
    attention_sm90(context, params);
  else
    attention_sm80(context, params);
}

}  // namespace purekv::cuda
