# SPDX-License-Identifier: Apache-2.0
"""The synthetic world: what a scene holds, and what it looks like at any time.

A scene is eight objects in the nine zones of a 168x168 canvas (the ninth zone is where the mover goes).
Each object plays one role, so every question of tasks.py has exactly one answer in every scene.
`render(scene, seconds)` is the only renderer: training, tests and the example clips all call it.
"""

import math
from dataclasses import dataclass, fields

import torch

SIZE = 168            # pixels; 6x6 merged tokens of 28
ZONE = 56             # pixels; a zone is exactly 2x2 merged tokens
DURATION = 16.0       # seconds
CLIP_FPS = 8          # of the mp4 clips
CLIP_FRAMES = 128
SAMPLED_FRAMES = 32   # at 2 fps, as the engine samples
STEPS = SAMPLED_FRAMES // 2

SHAPES = ["circle", "square", "triangle", "star", "ring", "cross", "diamond", "moon"]
COLORS = {
    "red": (215, 35, 40), "green": (40, 165, 60), "blue": (40, 75, 220), "yellow": (240, 222, 45),
    "orange": (245, 135, 20), "purple": (135, 45, 175), "cyan": (60, 215, 225), "pink": (250, 165, 200),
}
FLASH = len(COLORS)   # colour index of an object while it flashes (white)
ZONES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
HUES = {"gray": (92, 92, 92), "green": (45, 90, 50), "blue": (45, 60, 125),
        "red": (120, 42, 42), "purple": (92, 48, 112), "brown": (100, 70, 38)}
PATTERNS = ["stripes", "dots", "checks", "waves", "grids", "rings"]

# Evidence is small and short on purpose: an object covers one to four merged tokens, a visit one or two
# steps, so that a cache policy that drops at random loses answers.
# Roles. The first five are there from the start; the visitors show up for a moment, one in each third.
CHANGER, VANISHER, MOVER, FLASHER, STILL, VISITOR = range(6)
RESIDENTS, VISITORS, ROLES, TARGET = 5, 3, 8, 8
FLASH_SECONDS, MOVE_SECONDS, VISIT_SECONDS = 1.0, 2.0, 1.0
NEVER = 1e3


@dataclass
class Scene:
    """A batch of scenes; every tensor starts with the batch axis."""
    shape: torch.Tensor        # [B,8] role -> shape (a permutation: shapes are unique within a scene)
    zone: torch.Tensor         # [B,9] role -> zone, entry 8 is the mover's target
    offset: torch.Tensor       # [B,9,2] pixels off the zone's centre
    radius: torch.Tensor       # [B,8]
    color: torch.Tensor        # [B,8] role -> colour at the start
    new_color: torch.Tensor    # [B] of the changer
    event_time: torch.Tensor   # [B,3] seconds of colour change, vanishing, start of the move
    flash_start: torch.Tensor  # [B,4] seconds, NEVER where unused
    flash_count: torch.Tensor  # [B] 1..4
    visit_start: torch.Tensor  # [B,3] seconds
    hue: torch.Tensor          # [B,2] background before and after the cut
    pattern: torch.Tensor      # [B,2]
    phase: torch.Tensor        # [B,2] pixels, shift of the pattern
    cut_time: torch.Tensor     # [B]

    def to(self, device):
        return Scene(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, index):
        return Scene(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def __len__(self):
        return self.shape.shape[0]


def _spread(uniform, first, last, gap):
    """Sorted times in [first, last] at least `gap` apart, from uniform numbers [B,n]."""
    n = uniform.shape[1]
    room = last - first - gap * (n - 1)
    return first + uniform.sort(1).values * room + gap * torch.arange(n, device=uniform.device)


def _flashes(uniform, count):
    """Start times of 1..4 flashes, 3 s apart or more so that a clear step lies between two of them."""
    starts = torch.full_like(uniform, NEVER)
    for n in range(1, 5):
        times = _spread(uniform[:, :n], 0.75, 14.5, 3.0)
        starts[:, :n] = torch.where((count == n)[:, None], times, starts[:, :n])
    return starts


def sample_scenes(n, generator):
    """n random scenes on the generator's device."""
    device = generator.device

    def uniform(*shape):
        return torch.rand(n, *shape, generator=generator, device=device)

    def integer(high, *shape):
        return torch.randint(high, (n, *shape), generator=generator, device=device)

    color, hue, pattern = integer(8, 8), integer(6, 2), integer(6, 2)
    hue[:, 1] = (hue[:, 0] + 1 + integer(5)) % 6
    pattern[:, 1] = (pattern[:, 0] + 1 + integer(5)) % 6
    order = uniform(3).argsort(1)
    count = 1 + integer(4)
    return Scene(
        shape=uniform(8).argsort(1),
        zone=uniform(9).argsort(1),
        offset=(uniform(9, 2) - 0.5) * 28,
        radius=10.5 + 3 * uniform(8),
        color=color,
        new_color=(color[:, CHANGER] + 1 + integer(7)) % 8,
        event_time=_spread(uniform(3), 2.0, 13.0, 2.5).gather(1, order),
        flash_start=_flashes(uniform(4), count),
        flash_count=count,
        visit_start=0.5 + 5.0 * torch.arange(3, device=device) + 3.0 * uniform(3),
        hue=hue,
        pattern=pattern,
        phase=uniform(2) * 24,
        cut_time=4 + 8 * uniform(),
    )


def sampled_seconds(device="cpu"):
    """Times of the frames the engine picks from a clip: round-half-even of an even spread, at 8 fps."""
    return torch.linspace(0, CLIP_FRAMES - 1, SAMPLED_FRAMES).round().to(device) / CLIP_FPS


def object_state(scene, seconds):
    """Centre x, y [B,T,8], visible [B,T,8] and colour index [B,T,8] of each shape at each time."""
    t = seconds[None, :, None]
    batch, steps = len(scene), seconds.numel()
    corner = torch.stack([scene.zone % 3, scene.zone // 3], -1) * ZONE + ZONE / 2
    centre = corner + scene.offset                                       # [B,9,2]
    place = centre[:, None, :ROLES].expand(batch, steps, ROLES, 2).clone()
    way = ((t - scene.event_time[:, None, 2:3]) / MOVE_SECONDS).clamp(0, 1)
    place[:, :, MOVER] = torch.lerp(centre[:, None, MOVER], centre[:, None, TARGET], way)

    visible = torch.ones(batch, steps, ROLES, dtype=torch.bool, device=seconds.device)
    visible[:, :, VANISHER] = t[..., 0] < scene.event_time[:, 1:2]
    since = t - scene.visit_start[:, None]
    visible[:, :, VISITOR:] = (since >= 0) & (since < VISIT_SECONDS)

    color = scene.color[:, None].expand(batch, steps, ROLES).clone()
    changed = t[..., 0] >= scene.event_time[:, 0:1]
    color[:, :, CHANGER] = torch.where(changed, scene.new_color[:, None], color[:, :, CHANGER])
    lit = t - scene.flash_start[:, None]
    flashing = ((lit >= 0) & (lit < FLASH_SECONDS)).any(-1)
    color[:, :, FLASHER] = torch.where(flashing, FLASH, color[:, :, FLASHER])

    role = scene.shape.argsort(1)[:, None].expand(batch, steps, ROLES)   # shape -> role
    return (place[..., 0].gather(2, role), place[..., 1].gather(2, role),
            visible.gather(2, role), color.gather(2, role))


def _distance(shape, dx, dy, r):
    """Signed distance (pixels, inside negative) from the outline of one shape, by its name."""
    if shape == "circle":
        return torch.hypot(dx, dy) - r
    if shape == "square":
        return torch.maximum(dx.abs(), dy.abs()) - 0.86 * r
    if shape == "triangle":
        return torch.maximum(0.894 * dx.abs() - 0.447 * dy - 0.447 * r, dy - 0.75 * r)
    if shape == "star":
        sector = 2 * math.pi / 5
        turn = torch.atan2(dx, -dy) / sector + 0.5
        angle = (turn - torch.floor(turn) - 0.5).abs() * sector
        length = torch.hypot(dx, dy)
        inner_x, inner_y = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
        norm = math.hypot(inner_y, 1 - inner_x)
        return ((length * torch.cos(angle) - r) * inner_y + length * torch.sin(angle) * (1 - inner_x)) / norm
    if shape == "ring":
        return (torch.hypot(dx, dy) - 0.72 * r).abs() - 0.28 * r
    if shape == "cross":
        ax, ay = dx.abs(), dy.abs()
        return torch.minimum(torch.maximum(ax - 0.34 * r, ay - r), torch.maximum(ax - r, ay - 0.34 * r))
    if shape == "diamond":
        return 0.79 * dx.abs() + 0.61 * dy.abs() - 0.62 * r
    return torch.maximum(torch.hypot(dx, dy) - r, 0.8 * r - torch.hypot(dx - 0.55 * r, dy))


def _texture(pattern, x, y):
    """0/1 texture of a background; `pattern` is an index tensor that broadcasts against x and y."""
    def band(v, period, share):
        return ((v / period - torch.floor(v / period)) < share).to(x.dtype)

    near_x = (x / 16 - torch.floor(x / 16) - 0.5) * 16
    near_y = (y / 16 - torch.floor(y / 16) - 0.5) * 16
    out = band(x + 0 * y, 14, 0.5)
    out = torch.where(pattern == 1, (near_x * near_x + near_y * near_y < 20).to(x.dtype), out)
    out = torch.where(pattern == 2, (band(x, 24, 0.5) - band(y, 24, 0.5)).abs(), out)
    out = torch.where(pattern == 3, band(y + 5 * torch.sin(x / 5), 18, 0.5), out)
    out = torch.where(pattern == 4, torch.maximum(band(x, 18, 0.17), band(y, 18, 0.17)), out)
    return torch.where(pattern == 5, band(torch.hypot(x - 96, y - 96), 16, 0.5), out)


def _palette(colors, device):
    return torch.tensor(list(colors), dtype=torch.float32, device=device)


def paint_inputs(scene, seconds):
    """Everything `paint` needs, as tensors [B,T,...]: kept apart so that `paint` alone can be compiled."""
    device = seconds.device
    x, y, visible, color = object_state(scene, seconds)
    palette = _palette([*COLORS.values(), (255, 255, 255)], device)
    radius = scene.radius.gather(1, scene.shape.argsort(1))[:, None].expand_as(x)
    after = (seconds[None] >= scene.cut_time[:, None]).long()
    return (x, y, radius, visible.float(), palette[color],
            _palette(HUES.values(), device)[scene.hue.gather(1, after)],
            scene.pattern.gather(1, after), scene.phase.gather(1, after))


def paint(x, y, radius, visible, color, hue, pattern, phase):
    """Frames [B,T,3,168,168] as floats in 0..255; where two objects meet, the later shape lies on top."""
    axis = torch.arange(SIZE, device=x.device, dtype=torch.float32)
    px, py = axis[None, None, None, :], axis[None, None, :, None]
    wide = (slice(None), slice(None), None, None)
    texture = _texture(pattern[wide], px + phase[wide], py + phase[wide])
    # Light falls off downwards and warms to the right, so that a patch can tell where it lies: the vision
    # tower itself only knows distances between patches.
    u, v = px / (SIZE / 2) - 1, py / (SIZE / 2) - 1
    shade = (0.8 + 0.45 * texture) * (1 - 0.25 * v)
    planes = [hue[..., c][wide] * shade * (1 + tint * u) for c, tint in enumerate((0.16, 0.0, -0.16))]
    for i, name in enumerate(SHAPES):
        d = _distance(name, px - x[..., i][wide], py - y[..., i][wide], radius[..., i][wide])
        shown = visible[..., i][wide]
        outline = (1.7 - d).clamp(0, 1) * shown
        fill = (0.5 - d).clamp(0, 1) * shown
        for c in range(3):
            dark = planes[c] + (12.0 - planes[c]) * outline
            planes[c] = dark + (color[..., i, c][wide] - dark) * fill
    return torch.stack(planes, 2)


def to_uint8(frames):
    return frames.round().clamp(0, 255).to(torch.uint8)


def render(scene, seconds):
    """uint8 RGB frames [B,T,3,168,168] of a batch of scenes at the given times."""
    return to_uint8(paint(*paint_inputs(scene, seconds)))


def camera_noise(frames, level):
    """What a codec and a camera do, roughly: half chroma resolution, block offsets, grain, exposure.

    `level` [B] in 0..1 scales all but the chroma, which is halved wherever level > 0.3.
    """
    b, t, _, h, w = frames.shape
    k = level[:, None, None, None, None]
    luma = 0.299 * frames[:, :, :1] + 0.587 * frames[:, :, 1:2] + 0.114 * frames[:, :, 2:]
    chroma = (frames - luma).view(b, t, 3, h // 2, 2, w // 2, 2).mean((4, 6))
    chroma = chroma[..., None, :, None].expand(b, t, 3, h // 2, 2, w // 2, 2).reshape(b, t, 3, h, w)
    frames = torch.where(k > 0.3, luma + chroma, frames)
    gain = 1 + 0.16 * (torch.rand(b, 1, 1, 1, 1, device=frames.device) - 0.5) * k
    blocks = torch.randn(b, t, 1, h // 8, 1, w // 8, 1, device=frames.device)
    blocks = blocks.expand(b, t, 1, h // 8, 8, w // 8, 8).reshape(b, t, 1, h, w)
    grain = torch.randn(b, t, 1, h, w, device=frames.device)
    return frames * gain + k * (1.5 * blocks + 3.0 * grain)
