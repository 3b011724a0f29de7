# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model on scenes rendered on the fly, and writes its moving average as a checkpoint.

    python training/train.py --minutes 6 --out models/demo --state /tmp/demo.pt            # once
    python training/train.py --minutes 6 --out models/demo --state /tmp/demo.pt --resume   # go on after a stop

`--minutes` is the length of the whole schedule; `--stop-after` ends a piece of it early. One H200 needs
about 8 minutes in all for six of training; the state file makes pieces add up.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import export
import losses
import model as M
import tasks
import world
from optim import Optimiser
from vocab import Vocab

HELD_OUT_SEED = 7_000_000   # evaluation scenes come from a CPU generator with seeds from here on
PROBE_SHARE = 0.35          # of the schedule, over which the probes fade out


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--stop-after", type=float, default=1e9, help="minutes of this piece")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; holds tokenizer.json already")
    parser.add_argument("--state", type=Path, help="file for resuming")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--batch", type=int, default=128, help="videos per step")
    parser.add_argument("--attention", choices=["flex", "dense"], default="flex")
    parser.add_argument("--muon-lr", type=float, default=0.012)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--eval-scenes", type=int, default=1024, help="held-out scenes at the end")
    parser.add_argument("--enough", type=float, default=2.0, help="stop when the held-out mean reaches this")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def build_model(vocab):
    text = [vocab.start, *vocab.encode("system\n" + tasks.SYSTEM), vocab.end, *vocab.encode("\n"), vocab.start,
            *vocab.encode("user\n"), vocab.vision_start]
    assert len(text) == M.PREFIX_TEXT
    return M.DemoModel(M.Config(), text, vocab.vision_end)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        torch.manual_seed(args.seed)
        self.vocab = Vocab(args.out / "tokenizer.json")
        self.tasks = tasks.Tasks(self.vocab, self.device)
        self.model = build_model(self.vocab).to(self.device)
        self.probes = losses.Probes(self.model.config.hidden).to(self.device)
        self.optimiser = Optimiser(self.model, self.probes, args.muon_lr, args.adam_lr)
        self.seconds = world.sampled_seconds(self.device)
        flex = args.attention == "flex" and self.device == "cuda"
        self.attend = M.flex_attend(self.device) if flex else M.dense_attend(self.device)
        self.compile(torch.compile if self.device == "cuda" else lambda f: f)
        self.step, self.elapsed = 0, 0.0
        self.accuracy = torch.zeros(len(tasks.NAMES), device=self.device)
        if args.resume:
            self.load()

    def compile(self, wrap):
        """Compiles the layers, not the whole model: twelve equal layers then share one compilation."""
        torch._dynamo.config.automatic_dynamic_shapes = False
        M.DecoderLayer.forward = wrap(M.DecoderLayer.forward)
        M.VisionBlock.forward = wrap(M.VisionBlock.forward)
        self.paint = wrap(lambda *inputs: world.paint(*inputs).half())
        self.noisy = wrap(lambda frames, level: world.to_uint8(world.camera_noise(frames.float(), level)))
        self.patchify = wrap(M.patchify)
        self.answer_loss, self.head_loss = wrap(losses.answer_loss), wrap(losses.head_loss)

    def forward(self, frames, slots, mark, probe_after=None):
        video = self.model.visual(self.patchify(frames, self.dtype)).view(frames.shape[0], -1, self.model.config.hidden)
        hidden, memory = self.model.hidden(video, slots, self.attend, probe_after)
        rows, target, valid = losses.answer_rows(hidden, slots, mark)
        per_task, right = self.answer_loss(self.model.logits(rows), target, valid)
        return per_task, right, video, memory

    def train_step(self, progress):
        b = self.args.batch
        generator = torch.Generator(self.device).manual_seed(self.args.seed * 1_000_003 + self.step)
        scene = world.sample_scenes(b, generator)
        slots, mark = self.tasks.fill(scene, tasks.sample_picks(b, generator))
        with torch.no_grad():
            frames = self.paint(*world.paint_inputs(scene, self.seconds))
            frames = self.noisy(frames, torch.rand(b, generator=generator, device=self.device))
        probe = max(0.0, 1 - progress / PROBE_SHARE)
        per_task, right, video, memory = self.forward(frames, slots, mark, losses.MEMORY_LAYER)
        # Tasks that are still wrong weigh more.
        weight = 1.15 - self.accuracy
        loss = (per_task * weight / weight.mean()).mean()
        if probe > 0:
            see, remember = losses.probe_labels(scene, self.seconds)
            loss = loss + 0.3 * probe * (
                self.head_loss(self.probes.vision(video), see, losses.VISION_HEADS)
                + self.head_loss(self.probes.memory(memory), remember, losses.MEMORY_HEADS))
        loss.backward()
        self.step += 1
        self.optimiser.step(schedule(self.step, progress), self.step)
        self.accuracy = self.accuracy.lerp(right.float().mean(0), 0.02)
        return per_task.detach().mean()

    def evaluate(self, scenes, rounded=False):
        """Exact match per task of the averaged weights on held-out scenes, `args.batch` at a time."""
        kept = [p.detach().clone() for p in self.optimiser.weights]
        average = self.optimiser.average
        right = []
        torch._foreach_copy_(self.optimiser.weights_data(), [a.bfloat16() for a in average] if rounded else average)
        for start in range(0, scenes, self.args.batch):
            # Gradients stay on: another mode would compile everything once more.
            frames, slots, mark = held_out(self.tasks, HELD_OUT_SEED + start, self.args.batch, self.device)
            right.append(self.forward(frames, slots, mark, losses.MEMORY_LAYER)[1].float().mean(0))
        torch._foreach_copy_(self.optimiser.weights_data(), kept)
        return dict(zip(tasks.NAMES, torch.stack(right).mean(0).tolist()))

    def save(self):
        export.write_weights(self.optimiser.averaged(), self.args.out)
        export.write_configs(self.model.config, self.vocab, self.args.out)
        if self.args.state:
            state = {"model": self.model.state_dict(), "probes": self.probes.state_dict(), "step": self.step,
                     "optimiser": self.optimiser.state(), "elapsed": self.elapsed, "accuracy": self.accuracy}
            torch.save(state, self.args.state.with_suffix(".part"))
            self.args.state.with_suffix(".part").rename(self.args.state)

    def load(self):
        state = torch.load(self.args.state, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"])
        self.optimiser.load(state["optimiser"])
        self.step, self.elapsed, self.accuracy = state["step"], state["elapsed"], state["accuracy"]


def held_out(maker, seed, n, device):
    """Frames, slots and marks of n held-out scenes, the same on every machine up to rounding in the renderer."""
    generator = torch.Generator().manual_seed(seed)
    scene = world.sample_scenes(n, generator).to(device)
    picks = {k: v.to(device) for k, v in tasks.sample_picks(n, generator).items()}
    with torch.no_grad():
        parts = [world.render(scene[i:i + 16], world.sampled_seconds(device)) for i in range(0, n, 16)]
    return torch.cat(parts), *maker.fill(scene, picks)


def schedule(step, progress):
    """Warm-up over 200 steps, flat until 30 % of the time, then linear to 2 %."""
    return min(1.0, step / 200) * min(1.0, max(0.02, (1 - progress) / 0.7))


def run(trainer):
    args, total = trainer.args, trainer.args.minutes * 60
    trainer.train_step(0.0)      # compiles; not counted
    if trainer.device == "cuda":
        torch.cuda.synchronize()
    begin, before = time.time(), trainer.elapsed
    told = scored = saved = begin
    print("compiled", flush=True)
    while trainer.elapsed < total and time.time() - begin < args.stop_after * 60:
        loss = trainer.train_step(trainer.elapsed / total)
        now = time.time()
        trainer.elapsed = before + now - begin
        if now - told > 10:
            told, rates = now, " ".join(f"{a:.2f}" for a in trainer.accuracy.tolist())
            print(f"{trainer.elapsed:.0f}s step {trainer.step} loss {loss.item():.3f} train {rates}", flush=True)
        if now - scored > 75:
            scores = trainer.evaluate(args.batch * 2)
            mean = sum(scores.values()) / len(scores)
            print(f"held-out {mean:.3f} " + " ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
            scored = time.time()
            if mean >= args.enough:
                break
        if now - saved > 150:
            trainer.save()
            saved = time.time()


def main():
    args = arguments()
    torch.set_float32_matmul_precision("high")
    begin = time.time()
    trainer = Trainer(args)
    print(f"{sum(p.numel() for p in trainer.model.parameters())} parameters", flush=True)
    run(trainer)
    trainer.save()
    scores = trainer.evaluate(args.eval_scenes, rounded=True)
    result = {"mean": sum(scores.values()) / len(scores), "tasks": scores, "items_per_task": args.eval_scenes,
              "steps": trainer.step, "videos": trainer.step * args.batch, "seconds": round(trainer.elapsed),
              "wall_seconds": round(time.time() - begin)}
    (args.out / "training.json").write_text(json.dumps(result, indent=2) + "\n")
    print("final", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
