"""What PureKV is timed beside: PyTorch's attention and transformers' Qwen2.5-VL on random weights, bf16.

Each method returns a function that takes one turn and gives milliseconds, one value a run, by the device's own clock.
"""

import dataclasses
import gc
import statistics
import time
import warnings

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (Qwen2_5_VisionTransformerPretrainedModel,
                                                                Qwen2_5_VLTextModel)

from gpu_rows import st_mask

DTYPE = torch.bfloat16
# Clock cycles (some 10 ms) that the device waits while the host queues the runs of a turn.
HEAD_START = 20_000_000
BACKENDS = {"cuDNN SDPA": SDPBackend.CUDNN_ATTENTION, "FA2 SDPA": SDPBackend.FLASH_ATTENTION}


class Peers:
    """`shape` has the sizes of gpu_rows.Shape; `device` is "cuda", or "cpu" to try the code out."""

    def __init__(self, shape, device: str):
        self.shape, self.device = shape, torch.device(device)
        self._language = None
        torch.manual_seed(0)
        warnings.filterwarnings("ignore")
        transformers.logging.set_verbosity_error()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def versions(self) -> dict:
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def free_bytes(self) -> int | None:
        """Memory of the card that nobody holds; None without a card."""
        self._release()
        return torch.cuda.mem_get_info()[0] if self.on_gpu else None

    def times(self, run, repeat: int, *, queued=False, warm=True) -> list[float]:
        """Milliseconds of each of `repeat` runs. `queued`: the host runs ahead, so a launch costs a kernel nothing."""
        with torch.no_grad():
            if warm:
                run()
            if not self.on_gpu:
                return [self._host_time(run) for _ in range(repeat)]
            marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeat)]
            torch.cuda.synchronize()
            if queued:
                torch.cuda._sleep(HEAD_START)
            for begin, end in marks:
                begin.record()
                run()
                end.record()
                if not queued:
                    end.synchronize()
            torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in marks]

    @staticmethod
    def _host_time(run) -> float:
        begin = time.perf_counter()
        run()
        return (time.perf_counter() - begin) * 1e3

    def _release(self) -> None:
        """Hands the memory pool back: the next turn is another process's, and may need it."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def ceiling(self) -> dict:
        """TFLOP/s of one 8192^3 bf16 product and GB/s, read and written, of a 2 GiB copy, through PyTorch."""
        wide, count = (8192, 1 << 30) if self.on_gpu else (256, 1 << 20)
        a, b = (torch.randn(wide, wide, device=self.device, dtype=DTYPE) for _ in range(2))
        source = torch.randn(count, device=self.device, dtype=DTYPE)
        target = torch.empty_like(source)
        gemm = statistics.median(self.times(lambda: a @ b, 10, queued=True))
        copy = statistics.median(self.times(lambda: target.copy_(source), 10, queued=True))
        del a, b, source, target
        self._release()
        return {"gemm_tflops": 2 * wide**3 / gemm * 1e-9, "copy_gbps": 4 * count / copy * 1e-6}

    def while_busy(self, ask):
        """What `ask()` says after the device has multiplied for a second, and still does."""
        wide, count, warm_up_s = (8192, 1200, 1.0) if self.on_gpu else (64, 1, 0)
        a, b = (torch.randn(wide, wide, device=self.device, dtype=DTYPE) for _ in range(2))
        out = torch.empty_like(a)
        for _ in range(count):
            torch.mm(a, b, out=out)
        time.sleep(warm_up_s)  # the product queue lasts 1.7 s; nvidia-smi gives means over about a second
        answer = ask()
        del a, b, out
        self._release()
        return answer

    def _heads(self, rows: int, heads: int, *, interleaved: bool, repeated: int = 1):
        """Random [1, heads, rows, d]; `interleaved`: rows lie as a linear layer leaves them, [rows, heads, d]."""
        d = self.shape.head_dim
        if interleaved:
            x = torch.randn(1, rows, heads, d, device=self.device, dtype=DTYPE).transpose(1, 2)
        else:
            x = torch.randn(1, heads, rows, d, device=self.device, dtype=DTYPE)
        return x if repeated == 1 else x.repeat_interleave(repeated, 1)

    def flex(self, frames: int, cells: int, prefix: int, repeat: int):
        """Compiled FlexAttention with a block mask, one layer's heads, no projections."""
        rows = prefix + frames * cells
        q = self._heads(rows, self.shape.heads, interleaved=False)
        k, v = (self._heads(rows, self.shape.kv_heads, interleaved=False) for _ in range(2))
        blocks = create_block_mask(st_mask(cells, prefix), None, None, rows, rows, device=self.device)
        torch._dynamo.reset()  # else a fifth shape would meet the limit of recompilations
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda: self.times(lambda: compiled(q, k, v, block_mask=blocks, enable_gqa=True), repeat, queued=True)

    def sdpa(self, name: str, rows: int, repeat: int):
        """Causal SDPA held to one backend; of the layouts and both ways to share KV heads, the fastest that runs."""
        backend = BACKENDS[name] if self.on_gpu else SDPBackend.MATH
        group = self.shape.heads // self.shape.kv_heads
        best, best_ms = None, float("inf")
        for interleaved in (False, True):
            for native in (True, False):
                q = self._heads(rows, self.shape.heads, interleaved=interleaved)
                k, v = (self._heads(rows, self.shape.kv_heads, interleaved=interleaved, repeated=1 if native else group)
                        for _ in range(2))

                def run(q=q, k=k, v=v, native=native):
                    with sdpa_kernel(backend):
                        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=native)

                try:
                    ms = statistics.median(self.times(run, 3, queued=True))
                except RuntimeError:  # this backend does not take the form
                    continue
                if ms < best_ms:
                    best, best_ms = run, ms
        if best is None:
            raise RuntimeError(f"{name} runs in no layout")
        self._release()
        return lambda: self.times(best, repeat, queued=True)

    def vision(self, slices: int, grid_h: int, grid_w: int, repeat: int):
        """The tower over one video of `slices` frame pairs, SDPA."""
        s = self.shape
        config = Qwen2_5_VLVisionConfig(depth=s.tower_layers, hidden_size=s.tower_hidden, num_heads=s.tower_heads,
                                        intermediate_size=s.tower_ffn, out_hidden_size=s.hidden,
                                        fullatt_block_indexes=list(s.tower_full))
        with self.device:
            tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, dtype=DTYPE,
                                                                          attn_implementation="sdpa").eval()
        patches = torch.randn(slices * grid_h * grid_w, 3 * 2 * 14 * 14, device=self.device, dtype=DTYPE)
        grid = torch.tensor([[slices, grid_h, grid_w]], device=self.device)
        return lambda: self.times(lambda: tower(patches, grid_thw=grid), repeat)

    def prefill(self, rows: int, attention: str, repeat: int):
        """The language model over `rows` up to the last row's logits, cache filled. One run a turn goes unwarmed."""
        language = self.language()

        def turn():
            language.attend(attention)
            ids = language.random_ids(rows)
            times = self.times(lambda: language.step(ids, None), repeat, warm=repeat > 1)
            self._release()
            return times

        return turn

    def decode(self, rows: int, attention: str, steps: int):
        """One token at a time after a prefill of `rows`."""
        language = self.language()

        def turn():
            language.attend("sdpa")
            with torch.no_grad():
                token, cache = language.step(language.random_ids(rows), None)
            language.attend(attention)
            state = {"token": token}

            def step():
                state["token"], _ = language.step(state["token"], cache)

            times = self.times(step, steps)
            del cache, step
            self._release()
            return times

        return turn

    def language(self) -> "Language":
        """Made at first use: 15 GB."""
        if self._language is None:
            self._language = Language(self.shape, self.device)
        return self._language


@dataclasses.dataclass
class Language:
    """transformers' text model of the shape and a head; positions are plain, as for text."""

    shape: object
    device: torch.device

    def __post_init__(self):
        s = self.shape
        half = s.head_dim // 2
        section = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
        config = Qwen2_5_VLTextConfig(vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.ffn,
                                      num_hidden_layers=s.layers, num_attention_heads=s.heads,
                                      num_key_value_heads=s.kv_heads, max_position_embeddings=1 << 18,
                                      rope_parameters=rope)
        with self.device:  # weights are drawn where they stay: on the host it would take minutes
            self.model = Qwen2_5_VLTextModel._from_config(config, dtype=DTYPE, attn_implementation="sdpa").eval()
            self.head = torch.nn.Linear(s.hidden, s.vocab, bias=False, dtype=DTYPE)

    def attend(self, implementation: str) -> None:
        self.model.set_attn_implementation(implementation)

    def random_ids(self, rows: int):
        return torch.randint(0, self.shape.vocab, (1, rows), device=self.device)

    def step(self, ids, cache):
        """The likeliest next token [1, 1] and the cache, now longer by `ids`."""
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        return self.head(out.last_hidden_state[:, -1]).argmax(-1, keepdim=True), out.past_key_values
