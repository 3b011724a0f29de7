"""Media through the program: which frames and pixels reach the vision tower, and what is refused."""

import os
import random
import struct
import zlib

import numpy
import pytest
from PIL import Image

from helpers import ROOT, one_error_line, run
from media_oracle import (decode, difference, ffmpeg, frames_of, linspace, make_clip, pillow_pixels,
                          resize_frames, smart_resize)

pytestmark = pytest.mark.usefixtures("purekv_bin")

SHARED = ROOT.parent / "shared" / "clips"
X264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
CLIPS = {
    "b-frames.mp4": f"{X264} -bf 3 -g 12",
    "fragments.mp4": f"{X264} -bf 2 -g 12 -movflags frag_keyframe+empty_moov",
    "h264.mkv": f"{X264} -bf 2",
    "422.mp4": "-c:v libx264 -preset veryfast -pix_fmt yuv422p",
    "444.mov": "-c:v libx264 -preset veryfast -pix_fmt yuv444p",
    "gray.mp4": "-c:v libx264 -preset veryfast -pix_fmt gray",
    "full-range.mp4": "-c:v libx264 -preset veryfast -pix_fmt yuvj420p",
    "bt709.mp4": f"-vf scale=out_color_matrix=bt709 -colorspace bt709 {X264}",
    "interlaced.mp4": f"{X264} -flags +ilme+ildct",
    "variable-rate.mkv": f"-vf select=not(mod(n\\,3))*gt(n\\,4)+lt(n\\,9) -vsync vfr {X264}",
    "10-bit.mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=0 -pix_fmt yuv420p10le",
    "vp8.webm": "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 300k",
    "hidden-frames.webm": "-c:v libvpx-vp9 -auto-alt-ref 1 -lag-in-frames 16 -cpu-used 8 -b:v 300k",
    "odd.webm": "-vf crop=157:115:exact=1 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 300k",
    "av1.mkv": "-c:v libsvtav1 -preset 12",
    "mpeg4.avi": "-c:v mpeg4 -bf 2",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p",
}
MODEL_LIMITS = (12_544, 28_224)  # of models/demo


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A function that makes a clip of CLIPS once."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        return folder / name if (folder / name).exists() else make_clip(folder / name, CLIPS[name])

    return make


def inspect(path, *flags, cwd=None):
    return run(["inspect", "--json", *flags, path], cwd=cwd)


def one_medium(path, *flags, cwd=None) -> dict:
    return inspect(path, *flags, cwd=cwd).json()["media"][0]


def refuse(path, *flags) -> str:
    """The message of a refusal, which names the file."""
    message = one_error_line(inspect(path, *flags), 3)
    assert os.fspath(path) in message
    return message


# --- videos ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CLIPS)
def test_frames_are_ffmpegs(name, clip, demo_model, tmp_path):
    path = clip(name)
    truth = decode(path)
    (medium,), (frames,) = frames_of(demo_model, tmp_path, [path], "--frames", "10")
    assert medium["kind"] == "video"
    assert medium["frame_indices"] == linspace(0, len(truth) - 1, 10)
    assert medium["resized"] == smart_resize(*truth.shape[1:3], *MODEL_LIMITS)
    assert difference(frames, resize_frames(truth[medium["frame_indices"]], *medium["resized"])) <= 1


@pytest.mark.parametrize("name, turns", [("bt709_full_range.mp4", 0), ("h265_video.mp4", 0), ("h265_10bits.mp4", 0),
                                         ("av1_video.mkv", 0), ("unordered.mov", 0), ("video_0.mov", 0),
                                         ("video_90.mov", 3), ("video_180.mov", 2), ("video_270.mov", 1)])
def test_torture_clips(name, turns, demo_model, tmp_path):
    path = SHARED / "torture" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    truth = numpy.rot90(decode(path), turns, (1, 2))
    (medium,), (frames,) = frames_of(demo_model, tmp_path, [path])
    assert medium["resized"] == smart_resize(*truth.shape[1:3], *MODEL_LIMITS)
    assert difference(frames, resize_frames(truth[medium["frame_indices"]], *medium["resized"])) <= 1


def test_a_corrupted_clip_is_refused():
    path = SHARED / "torture" / "corrupted.mp4"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    assert "damaged" in refuse(path)


# a, b, c, d of the display matrix, and what it does to a picture.
TURNS = {"90": ((0, 1, -1, 0), lambda x: numpy.rot90(x, 3, (1, 2))), "180": ((-1, 0, 0, -1), lambda x: x[:, ::-1, ::-1]),
         "270": ((0, -1, 1, 0), lambda x: numpy.rot90(x, 1, (1, 2))), "mirror": ((-1, 0, 0, 1), lambda x: x[:, :, ::-1])}


def set_matrix(path, out, matrix):
    """Copies an mp4 file with another display matrix in its track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (round(65536 * x) for x in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    out.write_bytes(data)
    return out


@pytest.mark.parametrize("turn", TURNS)
def test_rotation(turn, clip, demo_model, tmp_path):
    matrix, turned = TURNS[turn]
    path = set_matrix(clip("b-frames.mp4"), tmp_path / "turned.mp4", matrix)
    truth = turned(decode(clip("b-frames.mp4")))
    (medium,), (frames,) = frames_of(demo_model, tmp_path, [path], "--frames", "6")
    assert difference(frames, resize_frames(truth[medium["frame_indices"]], *medium["resized"])) <= 1


def test_a_crooked_rotation_is_refused(clip, tmp_path):
    assert "90" in refuse(set_matrix(clip("b-frames.mp4"), tmp_path / "a.mp4", (0.7, 0.7, -0.7, 0.7)))


def test_edit_lists_are_honoured(clip, demo_model, tmp_path):
    path = tmp_path / "edit.mp4"
    ffmpeg("-ss", "0.7", "-i", clip("b-frames.mp4"), "-c", "copy", path)
    truth = decode(path)
    assert len(truth) < 50
    (medium,), (frames,) = frames_of(demo_model, tmp_path, [path], "--frames", str(len(truth) // 2 * 2))
    assert medium["frame_indices"][-1] == len(truth) - 1
    assert difference(frames, resize_frames(truth[medium["frame_indices"]], *medium["resized"])) <= 1


def test_ranges_and_rates(clip):
    path = clip("b-frames.mp4")
    assert one_medium(path)["frames"] == 4
    assert one_medium(path, "--fps", "5")["frames"] == 10
    assert one_medium(path, "--start", "0.5", "--end", "1.5", "--fps", "5")["frames"] == 4
    assert one_medium(path, "--fps", "1000")["frames"] == 50
    assert one_medium(path, "--frames", "5")["frames"] == 4
    assert one_medium(path, "--frames", "7")["frames"] == 8
    for flags in (["--frames", "52"], ["--start", "2"], ["--start", "1.97"],
                  ["--min-pixels", "60000"], ["--min-pixels", "99999999999", "--max-pixels", "99999999999"]):
        refuse(path, *flags)


def test_pixel_flags(clip):
    path = clip("b-frames.mp4")
    assert one_medium(path, "--min-pixels", "784", "--max-pixels", "5000")["resized"] == smart_resize(120, 160, 784, 5000)
    assert one_medium(path, "--max-pixels", "200000", "--min-pixels", "100352")["resized"] == [280, 392]
    # 1.05 times the lower limit wins over a total that is too small.
    assert one_medium(path, "--total-pixels", "1")["resized"] == smart_resize(120, 160, 12_544, 13_171)


def test_a_cover_picture_is_no_video(clip, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cover.png")
    both, cover, tone = tmp_path / "both.mp4", tmp_path / "cover.m4a", tmp_path / "tone.m4a"
    ffmpeg("-i", clip("b-frames.mp4"), "-i", tmp_path / "cover.png", "-map", "1", "-map", "0", "-c", "copy",
           "-disposition:v:0", "attached_pic", both)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tone)
    ffmpeg("-i", tone, "-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0",
           "attached_pic", cover)
    assert one_medium(both)["source"] == [120, 160]
    assert "none is video" in refuse(tone)
    assert "none is video" in refuse(cover)


def test_one_frame_is_no_video(tmp_path):
    refuse(make_clip(tmp_path / "one.mp4", f"-frames:v 1 {X264}"))


@pytest.mark.parametrize("name, options", [("a.mkv", "-c:v mpeg2video"), ("a.mov", "-c:v prores"), ("a.avi", "-c:v ffv1")])
def test_other_codecs_are_refused(name, options, tmp_path):
    assert "re-encode" in refuse(make_clip(tmp_path / name, f"-frames:v 8 {options}"))


@pytest.mark.parametrize("name, options", [("a.ts", X264), ("a.gif", "-c:v gif"), ("a.flv", "-c:v flv")])
def test_other_containers_are_refused(name, options, tmp_path):
    refuse(make_clip(tmp_path / name, f"-frames:v 8 {options}"))


def test_large_videos_are_refused(tmp_path):
    path = make_clip(tmp_path / "wide.avi", "-c:v mjpeg -frames:v 2", "color=size=4112x64:rate=2")
    assert "4112x64" in refuse(path)


@pytest.mark.parametrize("name", ["b-frames.mp4", "fragments.mp4", "h264.mkv", "vp8.webm", "mpeg4.avi", "mjpeg.avi"])
def test_every_cut_is_refused(name, clip, tmp_path):
    whole = clip(name).read_bytes()
    cuts = [len(whole) - n for n in (1, 2, 7, 8, 64, 500)] + random.Random(name).sample(range(1, len(whole)), 10)
    path = tmp_path / f"cut-{name}"
    for cut in cuts:
        path.write_bytes(whole[:cut])
        refuse(path)


def test_a_live_stream_is_whole_or_refused(clip, tmp_path):
    path = tmp_path / "live.webm"
    path.write_bytes(ffmpeg("-i", clip("vp8.webm"), "-c", "copy", "-f", "webm", "-live", "1", "-"))
    assert one_medium(path, "--frames", "50")["frames"] == 50
    path.write_bytes(path.read_bytes()[:-5])
    refuse(path)


def test_a_table_that_cannot_be_is_refused(clip, tmp_path):
    data = bytearray(clip("b-frames.mp4").read_bytes())
    struct.pack_into(">I", data, data.index(b"stsz") + 12, 0xFFFFFFFF)
    path = tmp_path / "bomb.mp4"
    path.write_bytes(data)
    assert "4294967295" in refuse(path)


def test_names_are_files_and_nothing_else(clip, tmp_path):
    data = clip("mjpeg.avi").read_bytes()
    for name in ("file:clip.mp4", "a%03d.png", "concat:a|b", "http:x", "-x.mp4", "pipe:0"):
        (tmp_path / name).write_bytes(data)
        path = f"./{name}" if name.startswith("-") else name
        assert one_medium(path, cwd=tmp_path)["source"] == [120, 160]
    for name in ("http://127.0.0.1:9/a.mp4", "concat:-x.mp4|-x.mp4", "file:-x.mp4"):
        one_error_line(inspect(name, cwd=tmp_path), 3)


def test_lists_are_refused(clip, tmp_path):
    clip_path = clip("b-frames.mp4")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{clip_path}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{clip_path}'\n")
    for name in ("list.m3u8", "list.ffconcat"):
        refuse(tmp_path / name)


def test_what_never_ends_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path / "fifo.mp4", "/dev/zero", tmp_path / "missing.mp4"):
        refuse(path)


# --- images ------------------------------------------------------------------------------------------------------

def noise(height, width, channels=3):
    """Flat blocks and noise: overshoot at every edge."""
    rng = numpy.random.default_rng(height * width)
    blocks = rng.integers(0, 256, ((height + 8) // 9, (width + 8) // 9, channels), dtype=numpy.uint8)
    picture = blocks.repeat(9, 0).repeat(9, 1)[:height, :width]
    picture[::3] = rng.integers(0, 256, picture[::3].shape, dtype=numpy.uint8)
    return picture


COLOUR, ALPHA = Image.fromarray(noise(97, 133)), Image.fromarray(noise(97, 133, 4))
IMAGES = {
    "rgb.png": (COLOUR, {}), "rgba.png": (ALPHA, {}), "gray.png": (COLOUR.convert("L"), {}),
    "gray-alpha.png": (ALPHA.convert("LA"), {}), "bits.png": (COLOUR.convert("1"), {}),
    "palette.png": (COLOUR.quantize(200), {}), "palette-4.png": (COLOUR.quantize(4), {}),
    "palette-clear.png": (COLOUR.quantize(13), {"transparency": 3}),
    "16-bit.png": (Image.fromarray(numpy.arange(97 * 133, dtype=numpy.uint16).reshape(97, 133) % 700), {}),
    "rgb.jpg": (COLOUR, {"quality": 80}), "progressive.jpg": (COLOUR, {"quality": 60, "progressive": True}),
    "444.jpg": (COLOUR, {"quality": 95, "subsampling": 0}), "gray.jpg": (COLOUR.convert("L"), {}),
    "cmyk.jpg": (COLOUR.convert("CMYK"), {}), "rgb.webp": (COLOUR, {"quality": 70}),
    "rgba.webp": (ALPHA, {"lossless": True}), "rgb.bmp": (COLOUR, {}), "rgba.bmp": (ALPHA, {}),
    "gray.bmp": (COLOUR.convert("L"), {}), "bits.bmp": (COLOUR.convert("1"), {}),
    "palette.bmp": (COLOUR.quantize(200), {}), "palette-4.bmp": (COLOUR.quantize(4), {}),
}


def test_images_are_pillows(demo_model, tmp_path):
    paths = []
    for name, (image, options) in IMAGES.items():
        image.save(tmp_path / name, **options)
        paths.append(tmp_path / name)
    media, frames = frames_of(demo_model, tmp_path, paths)
    assert [medium["kind"] for medium in media] == ["image"] * len(paths)
    for path, medium, pair in zip(paths, media, frames):
        assert medium["grid_thw"][0] == 1
        assert difference(pair[0], pair[1]) == 0
        assert difference(pair[0], pillow_pixels(path, *medium["resized"])) == 0, path.name


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_orientation(ending, demo_model, tmp_path):
    paths = []
    for tag in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = tag
        paths.append(tmp_path / f"{tag}.{ending}")
        Image.fromarray(noise(60, 90)).save(paths[-1], exif=exif)
    media, frames = frames_of(demo_model, tmp_path, paths)
    for path, medium, pair in zip(paths, media, frames):
        assert difference(pair[0], pillow_pixels(path, *medium["resized"])) == 0, path.name


def test_run_length_bitmaps(demo_model, tmp_path):
    """Pillow reads them, but does not write them: a hand-made one, with every escape."""
    rows = bytes([5, 1, 0, 0, 0, 3, 1, 2, 3, 0, 2, 4, 0, 0, 0, 2, 2, 0, 3, 5, 0, 0, 40, 6, 0, 1])
    palette = b"".join(bytes([40 * i % 256, 90 * i % 256, 13 * i % 256, 0]) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 5, 4, 1, 8, 1, len(rows), 0, 0, 256, 0)
    path = tmp_path / "runs.bmp"
    at = 14 + len(header) + len(palette)
    path.write_bytes(b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + header + palette + rows)
    (medium,), (frames,) = frames_of(demo_model, tmp_path, [path])
    assert difference(frames[0], pillow_pixels(path, *medium["resized"])) == 0


def test_damaged_images_are_refused(tmp_path):
    for name in ("rgb.png", "rgb.jpg", "progressive.jpg", "rgb.webp", "rgb.bmp"):
        image, options = IMAGES[name]
        image.save(tmp_path / name, **options)
        whole = (tmp_path / name).read_bytes()
        for cut in (3, 20, 60, len(whole) // 2, len(whole) - 30):
            (tmp_path / f"cut-{name}").write_bytes(whole[:cut])
            refuse(tmp_path / f"cut-{name}")


def png_of(height, width):
    """A valid header, with far too few pixels behind it."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_image_limits(tmp_path):
    path = tmp_path / "large.png"
    for height, width in ((20_000, 20_000), (16_385, 16), (4_100, 4_100), (1, 60_000), (2**31 - 1, 2**31 - 1)):
        path.write_bytes(png_of(height, width))
        refuse(path)
    Image.new("RGB", (201, 1)).save(path)
    assert "ratio" in refuse(path)
    Image.new("RGB", (200, 1)).save(path)
    assert one_medium(path)["frames"] == 1


# --- folders and .npy --------------------------------------------------------------------------------------------

def write_folder(folder, frames, names):
    folder.mkdir()
    for frame, name in zip(frames, names):
        Image.fromarray(frame).save(folder / name)
    return folder


def test_a_folder_is_a_clip_of_its_images(demo_model, tmp_path):
    frames = numpy.stack([noise(60, 84) // (1 + i) for i in range(3)])
    folder = write_folder(tmp_path / "frames", frames, ["b.png", "a.bmp", "Z.webp"])
    Image.fromarray(frames[2]).save(folder / "Z.webp", lossless=True)
    (folder / "notes.txt").write_text("BM is how a bitmap begins, and this text too")
    (folder / "more.png").mkdir()
    numpy.save(tmp_path / "frames.npy", frames[[2, 1, 0]])
    media, (first, second) = frames_of(demo_model, tmp_path, [folder, tmp_path / "frames.npy"], "--frame-rate", "0.5")
    for medium in media:
        assert (medium["kind"], medium["frame_indices"], medium["sample_fps"]) == ("frames", [0, 1, 2, 2], 0.5)
        assert medium["resized"] == smart_resize(60, 84, *MODEL_LIMITS)
    assert difference(first, second) == 0
    assert difference(first, resize_frames(frames[[2, 1, 0, 0]], *media[0]["resized"])) <= 1


def test_folders_that_are_no_clip(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    refuse(folder)
    (folder / "notes.txt").write_text("no image")
    refuse(folder)
    Image.fromarray(noise(60, 84)).save(folder / "a.png")
    assert one_medium(folder)["frames"] == 2
    Image.fromarray(noise(84, 60)).save(folder / "b.png")
    assert "b.png" in refuse(folder)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-100])
    one_error_line(run(["ask", folder, "what?", "--json"]), 3)
    (folder / "b.png").write_bytes(b"no image")
    assert one_medium(folder)["frames"] == 2  # what is no image is skipped


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("order", "CF")
def test_npy_frames(frames, order, demo_model, tmp_path):
    clip = numpy.random.default_rng(frames).integers(0, 256, (frames, 50, 70, 3), dtype=numpy.uint8)
    numpy.save(tmp_path / "a.npy", numpy.asarray(clip, order=order))
    (medium,), (seen,) = frames_of(demo_model, tmp_path, [tmp_path / "a.npy"])
    indices = [*range(frames), *[frames - 1] * (frames % 2)]
    assert (medium["frame_indices"], medium["sample_fps"]) == (indices, 2.0)
    assert difference(seen, resize_frames(clip[indices], *medium["resized"])) <= 1


def test_npy_files_of_other_kinds(tmp_path):
    for bad in (numpy.zeros((4, 8, 8, 3), numpy.float32), numpy.zeros((4, 8, 8), numpy.uint8),
                numpy.zeros((0, 8, 8, 3), numpy.uint8), numpy.zeros((4, 8, 8, 4), numpy.uint8)):
        numpy.save(tmp_path / "a.npy", bad)
        refuse(tmp_path / "a.npy")


def test_npy_cut_short(tmp_path):
    path = tmp_path / "a.npy"
    numpy.save(path, numpy.zeros((3, 53, 71, 3), numpy.uint8))
    os.truncate(path, path.stat().st_size - 100)
    assert "33767 bytes follow, 33867 are needed (3 frames of 11289)" in refuse(path)
