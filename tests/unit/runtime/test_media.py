"""Real files of many kinds, made here, on their way to timed pictures and timed sound."""

from __future__ import annotations

import gc
import struct
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest

from vllama.runtime import media
from vllama.runtime.errors import DecodeError, MediaError
from vllama.runtime.fields import Fields
from vllama.runtime.media import MediaInfo, probe, read_frames
from vllama.runtime.sound import read_sound

_BITS = 10
_H264 = {"crf": "16", "preset": "veryfast"}
_OPEN_GOP = {
    "x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0",
    "preset": "veryfast",
    "crf": "16",
}
_HEVC = {"x265-params": "log-level=none:bframes=3:keyint=12", "preset": "ultrafast", "crf": "16"}


def numbered(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """A picture that says its number: ten stripes, white for each bit that is set."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    for bit in range(_BITS):
        if number >> bit & 1:
            pixels[:, bit * width // _BITS : (bit + 1) * width // _BITS] = 215
    return pixels


def number_of(pixels: np.ndarray) -> int:
    middle = pixels[len(pixels) // 2].mean(-1)
    centres = [round((bit + 0.5) * len(middle) / _BITS) for bit in range(_BITS)]
    return sum((middle[centre] > 128) << bit for bit, centre in enumerate(centres))


def tone(seconds: float, rate: int, channels: int = 2) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 200 * (c + 1) * time) for c in range(channels)]).astype(np.float32)


def write(
    path: Path,
    pictures: int = 0,
    sound: np.ndarray | None = None,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    gop: int | None = None,
    pixels: str = "yuv420p",
    size: tuple[int, int] = (160, 96),
    ticks: list[int] | None = None,
    audio: str = "aac",
    rate: int = 44100,
    layout: str = "stereo",
    starts: float = 0.0,
    container_options: dict[str, str] | None = None,
    form: str | None = None,
) -> Path:
    """Numbered pictures at 10 per second, or at `ticks` milliseconds, and sound that starts at `starts`."""
    with av.open(path, "w", format=form, options=container_options or {}) as container:
        video = cast(av.VideoStream, container.add_stream(codec, 10, options=options or {})) if pictures else None
        stream = cast(av.AudioStream, container.add_stream(audio, rate, layout=layout)) if sound is not None else None
        if video is not None:
            video.width, video.height, video.pix_fmt = *size, pixels
            if gop:
                video.gop_size = gop
            if ticks:
                video.codec_context.time_base = Fraction(1, 1000)
            for number in range(pictures):
                frame = av.VideoFrame.from_ndarray(numbered(number, *size), "rgb24")
                if ticks:
                    frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if stream is not None:
            assert sound is not None
            block = av.AudioFrame.from_ndarray(sound, "fltp", layout)
            block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), round(starts * rate)
            container.mux(stream.encode(block))
            container.mux(stream.encode())
    return path


def patched(path: Path, after: bytes, offset: int, data: bytes) -> Path:
    """Bytes of a file replaced at `offset` from where `after` begins."""
    content = bytearray(path.read_bytes())
    place = content.index(after) + offset
    content[place : place + len(data)] = data
    path.write_bytes(content)
    return path


def numbers(info: MediaInfo, wanted: list[int] | None = None, size: int = 64) -> list[int]:
    wanted = list(range(len(info.frame_times))) if wanted is None else wanted
    frames = list(read_frames(info, wanted, size))
    assert [frame.index for frame in frames] == wanted
    assert [frame.time for frame in frames] == [info.frame_times[index] for index in wanted]
    return [number_of(frame.pixels) for frame in frames]


def heard(info: MediaInfo) -> np.ndarray:
    return np.concatenate([block.data for block in read_sound(info)], 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"options": {**_H264, "bf": "3"}}),
        ("fragments.mp4", {"options": _H264, "container_options": {"movflags": "frag_keyframe+empty_moov"}, "gop": 6}),
        ("hevc.mp4", {"codec": "libx265", "options": _HEVC}),
        ("ten_bits.mp4", {"options": _H264, "pixels": "yuv420p10"}),
        ("jpeg.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("open_gop.mkv", {"options": _OPEN_GOP}),
        ("odd_size.mkv", {"codec": "ffv1", "pixels": "yuv444p", "size": (157, 95)}),
        ("vp8.webm", {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"b": "1M", "cpu-used": "8"}}),
        ("mpeg4.avi", {"codec": "mpeg4", "options": {"b": "1M"}}),
        ("h264.avi", {"options": {**_H264, "bf": "2"}}),
        ("h264.ts", {"options": {**_H264, "bf": "3"}}),
        ("h264.flv", {"options": _H264}),
        ("moving.gif", {"codec": "gif", "pixels": "rgb8"}),
        ("no_pts.h264", {"options": {**_H264, "bf": "3"}, "form": "h264"}),
    ],
)
def test_every_picture_is_found_under_its_number(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    info = probe(write(tmp_path / name, 24, **options))
    assert (info.kind, info.has_audio) == ("video", False)
    assert numbers(info) == list(range(24))
    assert (np.diff(info.frame_times) > 0).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"options": {**_H264, "bf": "3", "g": "12"}}),
        ("open_gop.mp4", {"options": _OPEN_GOP}),
        ("open_gop.mkv", {"options": _OPEN_GOP}),
        ("open_gop.ts", {"options": _OPEN_GOP}),
        ("hevc.mkv", {"codec": "libx265", "options": _HEVC}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"b": "1M", "cpu-used": "8", "g": "12"}}),
        ("no_pts.h264", {"options": {**_H264, "g": "12"}, "form": "h264"}),
    ],
)
def test_pictures_behind_a_seek_are_those_of_a_full_decode_bit_for_bit(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(write(tmp_path / name, 100, **options))
    full = [frame.pixels for frame in read_frames(info, range(100), 64)]
    monkeypatch.setattr(media, "_SEEK_FRAMES", 4)
    for wanted in (list(range(0, 100, 7)), list(range(3, 100, 13)), [11, 12, 13, 47, 48, 59, 60, 99]):
        frames = list(read_frames(info, wanted, 64))
        assert [frame.index for frame in frames] == wanted
        for frame in frames:
            np.testing.assert_array_equal(frame.pixels, full[frame.index], err_msg=str(frame.index))


def test_a_long_video_is_read_by_seeking_over_what_nobody_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mp4", 1000, options={**_H264, "g": "50"}, size=(80, 48))
    damage(path, "video", range(60, 440))
    info = probe(path)
    assert numbers(info, [0, 500, 999], 40) == [0, 500, 999]
    with pytest.raises(DecodeError, match=r"long.mp4: cannot be decoded"):
        numbers(info, [0, 300])


def damage(path: Path, kind: str, packets: range | None = None) -> Path:
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        places = [(p.pos or 0, p.size) for p in container.demux(**{kind: 0}) if p.size]
    random = np.random.default_rng(0)
    for number in packets or range(len(places)):
        pos, size = places[number]
        content[pos : pos + size] = random.integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(content)
    return path


def _behind_codes(bits: str, place: int, count: int) -> int:
    """Where so many Exp-Golomb codes end that begin there."""
    for _ in range(count):
        zeros = bits.index("1", place) - place
        place += 2 * zeros + 1
    return place


def _unit(head: int, bits: str) -> bytes:
    """A unit of H.264 behind its start code."""
    bits = bits.rstrip("0")  # the last 1 is the stop bit
    bits += "0" * (-len(bits) % 8)
    made = bytearray()
    for byte in bytes([head, *(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))]):
        made += b"\3" * (byte <= 3 and made[-2:] == b"\0\0") + bytes([byte])
    return b"\0\0\0\1" + made


def fields(folder: Path, pictures: int) -> list[bytes]:
    """Numbered pictures as pairs of interlaced fields, made of pictures of half their height."""
    options = {"preset": "ultrafast", "x264-params": "bframes=0:keyint=1:slices=1"}
    plain = write(folder / "plain.h264", pictures, options=options, size=(160, 48), form="h264").read_bytes()
    begin, made = b"", list[bytes]()
    for unit in filter(None, plain.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")):
        bits = "".join(f"{byte:08b}" for byte in unit[1:].replace(b"\0\0\3", b"\0\0"))
        if unit[0] & 31 == 7:  # profile and level are 24 bits; codes; one flag; width and height; frame_mbs_only_flag
            place = _behind_codes(bits, _behind_codes(bits, 24, 4) + 1, 2)
            begin += _unit(unit[0], bits[:place] + "001" + "001")  # neither cropping nor the rate of the plain ones
        elif unit[0] & 31 == 8:
            begin += _unit(unit[0], bits)
        elif unit[0] & 31 == 5:
            place = _behind_codes(bits, 0, 3) + 4  # behind frame_num; then idr_pic_id and two flags
            end = _behind_codes(bits, place, 1)
            top, bottom = f"{bits[:place]}10{bits[place:]}", f"{bits[:place]}110{bits[end + 2 :]}"
            made += [begin + _unit(unit[0], top), _unit(unit[0] & 0xE0 | 1, bottom)]
            begin = b""
    return made


def interlaced(path: Path, packets: list[bytes], per_packet: int = 1) -> Path:
    """Fields at 50 per second, so many in each packet of the file."""
    raw = path.with_suffix(".raw.h264")
    raw.write_bytes(b"".join(packets))
    with av.open(raw, format="h264") as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number in range(0, len(packets), per_packet):
            packet = av.Packet(b"".join(packets[number : number + per_packet]))
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = per_packet, number % 2 == 0
            container.mux(packet)
    return path


@pytest.mark.parametrize(("name", "per_packet"), [("tv.ts", 1), ("avchd.ts", 2), ("field.mp4", 1), ("field.mkv", 1)])
def test_two_fields_are_one_picture(name: str, per_packet: int, tmp_path: Path) -> None:
    info = probe(interlaced(tmp_path / name, fields(tmp_path, 24), per_packet))
    np.testing.assert_allclose(info.frame_times, np.arange(24) / 25, atol=2e-3)
    assert numbers(info) == list(range(24))
    assert numbers(info, [0, 7, 23]) == [0, 7, 23]
    assert info.frame_rate == pytest.approx(25.0, rel=1e-3)
    assert info.duration == pytest.approx(0.96, abs=5e-3)


@pytest.mark.parametrize("extra", ["", ":cqm=jvt", ":8x8dct=0:cabac=0"])
@pytest.mark.parametrize("name", ["tv.ts", "tv.mp4"])
def test_interlaced_pictures_whose_fields_are_not_apart_are_one_each(name: str, extra: str, tmp_path: Path) -> None:
    options = {"crf": "16", "preset": "medium", "x264-params": f"interlaced=1:bframes=3:keyint=12{extra}"}
    path = write(tmp_path / name, 24, options=options)
    with av.open(path) as container:
        stream = container.streams.video[0]
        seen = Fields(stream.codec_context.extradata or b"")
        assert seen.are_possible
        assert not any(seen.is_second(bytes(packet)) or seen.is_open for packet in container.demux(stream))
    assert numbers(probe(path)) == list(range(24))


@pytest.mark.parametrize("interlaced", [True, False])
def test_scaling_lists_stand_before_what_tells_of_fields(interlaced: bool) -> None:
    lists = "1" + 16 * "010" + "1" + "000010001" + 6 * "0"  # of 16 steps; one that ends at once; six that are not there
    high = f"{100:08b}{0:08b}{40:08b}" + "1" + "010" + "1" + "1" + "0" + "1" + lists
    rest = "00101" + "011" + "010" + "0" + "010" + "010" + ("0" if interlaced else "1") + "1" + "1"
    assert Fields(_unit(0x67, high + rest)).are_possible == interlaced


def test_two_fields_without_times_are_one_picture(tmp_path: Path) -> None:
    (tmp_path / "field.h264").write_bytes(b"".join(fields(tmp_path, 24)))
    assert numbers(probe(tmp_path / "field.h264")) == list(range(24))


def test_a_broadcast_that_was_cut_between_two_fields_ends_with_the_picture_before(tmp_path: Path) -> None:
    info = probe(interlaced(tmp_path / "tv.ts", fields(tmp_path, 24)[:-1]))
    assert numbers(info) == list(range(23))


def test_a_field_without_its_other_one_is_no_picture(tmp_path: Path) -> None:
    packets = fields(tmp_path, 24)
    info = probe(interlaced(tmp_path / "tv.ts", packets[:21] + packets[22:]))
    assert numbers(info) == [*range(10), *range(11, 24)]


@pytest.mark.parametrize("offsets", [(3600, 0), (0, 7200), (0, 0), (10, 0)])
def test_joined_broadcasts_are_as_long_as_both_and_their_sound_is_beside_their_pictures(
    offsets: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = tmp_path / "joined.ts", b""
    for offset in offsets:
        options = {"output_ts_offset": str(offset)}
        content += write(path, 60, tone(6, 44100), options=_H264, gop=12, container_options=options).read_bytes()
    path.write_bytes(content)
    info = probe(path)
    assert info.duration == pytest.approx(12.0, abs=0.2)
    assert heard(info).shape[1] == pytest.approx(12 * 44100, abs=5000)
    np.testing.assert_allclose(info.frame_times, info.frame_times[0] + np.arange(120) / 10, atol=0.2)
    assert max(info.frame_times[0], info.sound_start) == pytest.approx(0.0, abs=0.1)
    monkeypatch.setattr(media, "_SEEK_FRAMES", 4)
    assert numbers(info, [0, 59, 60, 119]) == [0, 59, 0, 59]


def test_joined_sound_is_as_long_as_both(tmp_path: Path) -> None:
    path = write(tmp_path / "radio.ogg", 0, tone(3, 48000), audio="libopus", rate=48000)
    path.write_bytes(2 * path.read_bytes())
    info = probe(path)
    assert info.duration == pytest.approx(heard(info).shape[1] / 48000, abs=0.05)


def test_one_picture_is_a_video_of_one(tmp_path: Path) -> None:
    info = probe(write(tmp_path / "one.mp4", 1))
    assert (info.kind, info.frame_times.tolist(), info.duration) == ("video", [0.0], 0.1)
    assert numbers(info) == [0]


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_pictures_at_a_variable_rate_have_their_own_times(name: str, tmp_path: Path) -> None:
    ticks = [0, 100, 150, 400, 1000, 1033, 1900]
    info = probe(write(tmp_path / name, 7, ticks=ticks, options=_H264))
    np.testing.assert_allclose(info.frame_times, np.array(ticks) / 1000, atol=1e-3)
    assert numbers(info) == list(range(7))


@pytest.mark.parametrize("name", ["slides.mp4", "slides.mkv"])
def test_the_last_picture_lasts_as_long_as_its_packet_says(name: str, tmp_path: Path) -> None:
    info = probe(write(tmp_path / name, 3, ticks=[0, 4000, 8000], options=_H264))
    assert info.duration == pytest.approx(8.1, abs=5e-3)


_ONE, _PHONE = 1 << 16, (64, 96)  # width, height, as they are stored


@pytest.mark.parametrize(
    ("held", "matrix", "stored"),
    [
        ("upright", (1, 0, 0, 1), lambda upright: upright),
        ("turn right to see", (0, 1, -1, 0), lambda upright: np.rot90(upright, 1)),
        ("turn left to see", (0, -1, 1, 0), lambda upright: np.rot90(upright, -1)),
        ("upside down", (-1, 0, 0, -1), lambda upright: np.rot90(upright, 2)),
        ("mirrored", (-1, 0, 0, 1), lambda upright: upright[:, ::-1]),
        ("flipped", (1, 0, 0, -1), lambda upright: upright[::-1]),
        ("transposed", (0, 1, 1, 0), lambda upright: upright.transpose(1, 0, 2)),
        ("transposed the other way", (0, -1, -1, 0), lambda upright: np.rot90(upright, 2).transpose(1, 0, 2)),
    ],
)
def test_a_turned_phone_video_is_shown_upright(held: str, matrix: tuple[int, ...], stored: Any, tmp_path: Path) -> None:
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:48, :32], upright[:48, 32:], upright[48:, :32] = (220, 30, 30), (30, 200, 30), (40, 40, 220)
    turned = np.ascontiguousarray(stored(upright))
    path = tmp_path / "phone.mp4"
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", 10, options={"qp": "0"})
        video.width, video.height, video.pix_fmt = turned.shape[1], turned.shape[0], "yuv444p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(turned, "rgb24")))
        container.mux(video.encode())
    a, b, c, d = (value * _ONE for value in matrix)
    patched(path, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    (frame,) = read_frames(probe(path), [0], 96)
    seen = frame.pixels[::24, ::24][[0, 0, 3, 3], [0, 3, 0, 3]].astype(int)
    wanted = np.array([(220, 30, 30), (30, 200, 30), (40, 40, 220), (0, 0, 0)])
    assert np.abs(seen - wanted).max() < 12, (held, seen)


def test_a_turned_picture_is_scaled_after_it_was_turned_as_upstream_does(tmp_path: Path) -> None:
    path = write(tmp_path / "phone.mp4", 1, options={"qp": "0"}, size=(150, 70))
    patched(path, b"tkhd", 44, struct.pack(">9i", 0, _ONE, 0, -_ONE, 0, 0, 0, 0, 1 << 30))
    (frame,) = read_frames(probe(path), [0], 48)
    graph = av.filter.Graph()
    with av.open(path) as container:
        decoded = next(container.decode(video=0))
    source = graph.add_buffer(width=150, height=70, format=decoded.format, time_base=decoded.time_base)
    steps = [graph.add("transpose", "1"), graph.add("scale", "48:48:flags=bilinear"), graph.add("format", "rgb24")]
    graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
    graph.push(decoded)
    np.testing.assert_array_equal(frame.pixels, graph.pull().to_ndarray())


def test_pictures_hidden_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "trimmed.mp4", 40, options={**_H264, "bf": "0"}, gop=20)
    patched(path, b"elst", 12, struct.pack(">Ii", 2000, 5120))  # 2 s long, from 0.5 s on, in the middle of a GOP
    info = probe(path)
    assert numbers(info) == list(range(5, 25))
    np.testing.assert_allclose(info.frame_times, np.arange(20) / 10, atol=1e-6)


def test_a_recording_that_starts_in_the_middle_begins_with_its_first_keyframe(tmp_path: Path) -> None:
    path = write(tmp_path / "broadcast.ts", 60, options={**_H264, "bf": "2", "g": "12"})
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 3 // 188 * 188 :])
    info = probe(path)
    shown = numbers(info)
    assert 12 <= shown[0] < 36
    assert shown == list(range(shown[0], 60))


@pytest.mark.parametrize("name", ["late.mkv", "late.mov"])
def test_sound_that_starts_later_is_on_the_clock_of_the_picture(name: str, tmp_path: Path) -> None:
    sound = np.zeros((1, 32000), np.float32)
    sound[0, 8000] = 0.9
    path = write(tmp_path / name, 20, sound, audio="pcm_s16le", rate=16000, layout="mono", starts=1.0)
    info = probe(path)
    assert info.frame_times[0] == 0.0
    assert info.sound_start == pytest.approx(1.0, abs=2e-3)
    assert info.duration == pytest.approx(3.0, abs=0.01)
    blocks = list(read_sound(info))
    assert blocks[0].start == info.sound_start
    assert blocks[-1].end == pytest.approx(3.0, abs=2e-3)
    loud = next(block for block in blocks if block.data.max() > 0.5)
    assert loud.start + loud.data[0].argmax() / 16000 == pytest.approx(1.5, abs=2e-3)


@pytest.mark.parametrize(("gap", "filled"), [(0.05, 0.0), (2.5, 2.5), (4000.0, 0.0)])
def test_what_sounds_after_a_gap_is_heard_in_its_time(gap: float, filled: float, tmp_path: Path) -> None:
    """Less than a tenth of a second is rounding, more than an hour a clock that was set."""
    path = tmp_path / "gap.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", 16000, layout="mono")
        for part in range(4):
            frame = av.AudioFrame.from_ndarray(np.full((1, 16000), 8192, np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = round(16000 * (part + gap * (part >= 2)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    blocks = list(read_sound(probe(path)))
    assert max(block.data.shape[1] for block in blocks) <= 16000
    sound = np.concatenate([block.data[0] for block in blocks])
    assert sound.size == 16000 * (4 + filled)
    quiet = np.flatnonzero(sound == 0.0) / 16000
    assert quiet.size == 16000 * filled
    assert (quiet >= 2.0).all()
    assert (quiet < 2.0 + filled).all()
    for one, other in pairwise(blocks):
        assert other.start == pytest.approx(one.end)


def test_picture_that_starts_later_is_on_the_clock_of_the_sound(tmp_path: Path) -> None:
    ticks = [1500 + 100 * number for number in range(20)]
    path = write(tmp_path / "late.mkv", 20, tone(2, 16000, 1), ticks=ticks, audio="flac", rate=16000, layout="mono")
    info = probe(path)
    assert info.sound_start == 0.0
    np.testing.assert_allclose(info.frame_times[:2], [1.5, 1.6], atol=2e-3)
    assert info.duration == pytest.approx(3.5, abs=0.01)


@pytest.mark.parametrize(("pictures", "seconds"), [(5, 4.0), (40, 1.0)])
def test_a_clip_lasts_as_long_as_the_longer_of_picture_and_sound(pictures: int, seconds: float, tmp_path: Path) -> None:
    info = probe(write(tmp_path / "clip.mp4", pictures, tone(seconds, 44100)))
    assert info.duration == pytest.approx(4.0, abs=0.05)
    assert len(info.frame_times) == pictures


@pytest.mark.parametrize("name", ["song.mp3", "song.flac", "song.ogg", "song.m4a", "song.aac", "song.aiff"])
def test_a_sound_file_has_no_pictures(name: str, tmp_path: Path) -> None:
    kinds = {".mp3": "libmp3lame", ".flac": "flac", ".ogg": "libopus", ".aiff": "pcm_s16be"}
    info = probe(write(tmp_path / name, 0, tone(1, 48000), audio=kinds.get(Path(name).suffix, "aac"), rate=48000))
    assert (info.kind, len(info.frame_times), info.frame_rate, info.has_audio) == ("audio", 0, 0.0, True)
    assert info.duration == pytest.approx(1.0, abs=0.06)
    assert heard(info).shape == (2, pytest.approx(48000, abs=3000))


@pytest.mark.parametrize(("name", "codec"), [("song.mp3", "libmp3lame"), ("song.flac", "flac")])
def test_cover_art_is_no_picture_of_a_clip(name: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with av.open(path, "w") as container:
        audio = cast(av.AudioStream, container.add_stream(codec, 44100, layout="stereo"))
        cover = container.add_stream("mjpeg", 1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1, 64, 64), "rgb24")) + cover.encode())
        block = av.AudioFrame.from_ndarray(tone(1, 44100), "fltp", "stereo")
        block.sample_rate = 44100
        container.mux(audio.encode(block) + audio.encode())
    with av.open(path) as container:
        assert len(container.streams.video) == 1
    info = probe(path)
    assert (info.kind, len(info.frame_times), info.has_audio) == ("audio", 0, True)


def test_time_and_sound_come_from_the_same_one_of_two_tracks(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(path, "w") as container:
        picture = container.add_stream("mjpeg", 10)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
        aside = container.add_stream("pcm_s16le", 16000, layout="mono")
        main = container.add_stream("pcm_s16le", 16000, layout="stereo")
        aside.disposition, main.disposition = av.stream.Disposition(0), av.stream.Disposition.default
        aside.metadata["language"], main.metadata["language"] = "ger", "eng"
        for stream, layout, start in ((aside, "mono", 0), (main, "stereo", 16000)):
            block = av.AudioFrame.from_ndarray(tone(2, 16000, 1 + (layout == "stereo")), "fltp", layout)
            block.sample_rate, block.time_base, block.pts = 16000, Fraction(1, 16000), start
            container.mux(stream.encode(block) + stream.encode())
        container.mux(picture.encode(av.VideoFrame.from_ndarray(numbered(1, 64, 64), "rgb24")) + picture.encode())
    info = probe(path)
    assert info.sound_start == pytest.approx(1.0, abs=1e-3)
    assert len(heard(info)) == 2
    (note,) = info.sound_notes
    assert note == ("hears sound track 2 of 2 (eng); for another: ffmpeg -i FILE -map 0:v -map 0:a:0 -c copy NEW.mkv")


@pytest.mark.parametrize("unknown", [0, 1])
def test_sound_that_has_no_decoder_is_no_track(unknown: int, tmp_path: Path) -> None:
    """As the `apac` beside the stereo sound of an iPhone."""
    path = tmp_path / "phone.mov"
    with av.open(path, "w") as container:
        streams = [container.add_stream("pcm_s16le", 16000, layout="mono") for _ in range(2)]
        for stream, loud in zip(streams, (0.25, 0.5), strict=True):
            block = av.AudioFrame.from_ndarray(np.full((1, 16000), loud, np.float32), "fltp", "mono")
            block.sample_rate = 16000
            container.mux(stream.encode(block) + stream.encode())
    content = path.read_bytes()
    places = [content.index(b"sowt"), content.index(b"sowt", content.index(b"sowt") + 4)]
    path.write_bytes(content[: places[unknown]] + b"apac" + content[places[unknown] + 4 :])
    info = probe(path)
    assert info.sound_notes == ()
    assert heard(info).mean() == pytest.approx((0.5, 0.25)[unknown], abs=1e-4)


def test_a_file_whose_only_sound_has_no_decoder_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "phone.mov", 5, tone(1, 16000, 1), audio="pcm_s16le", rate=16000, layout="mono")
    info = probe(patched(path, b"sowt", 0, b"apac"))
    assert (info.has_audio, numbers(info)) == (True, list(range(5)))
    with pytest.raises(DecodeError, match=r"phone.mov: its sound cannot be decoded \(decoder not found"):
        heard(info)


@pytest.mark.parametrize(
    ("codec", "error"),
    [
        ("pcm_u8", 1 / 100), ("pcm_s16le", 1e-4), ("pcm_s24le", 1e-6), ("pcm_s32le", 1e-6), ("pcm_f32le", 1e-6),
        ("pcm_f64le", 1e-6), ("pcm_alaw", 0.02),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rate", [8000, 48000])
def test_samples_of_every_width_lie_between_minus_one_and_one(
    codec: str, error: float, rate: int, tmp_path: Path
) -> None:
    sound = tone(0.25, rate, 1)
    got = heard(probe(write(tmp_path / "sound.wav", 0, sound, audio=codec, rate=rate, layout="mono")))
    assert (got.dtype.name, got.shape) == ("float32", sound.shape)
    np.testing.assert_allclose(got, sound, atol=error)


def test_all_six_channels_of_surround_sound_are_heard_in_their_order(tmp_path: Path) -> None:
    sound = tone(0.2, 48000, 6)
    path = write(tmp_path / "cinema.wav", 0, sound, audio="pcm_s16le", rate=48000, layout="5.1")
    np.testing.assert_allclose(heard(probe(path)), sound, atol=1e-4)


@pytest.mark.parametrize("stated", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_has_the_length_of_its_file(stated: int, tmp_path: Path) -> None:
    path = write(tmp_path / "piped.wav", 0, tone(1, 16000, 1), audio="pcm_s16le", rate=16000, layout="mono")
    patched(path, b"data", 4, struct.pack("<I", stated))
    patched(path, b"RIFF", 4, struct.pack("<I", stated))
    assert heard(probe(path)).shape == (1, 16000)


def test_names_and_tags_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "http:x.mp4", "50%02d.mp4", "-i.mp4"):
        assert numbers(probe(write(Path(name).absolute(), 2))) == [0, 1], name
        assert probe(Path(name)).path == Path(name)
    song = write(tmp_path / "song.wav", 0, tone(0.5, 16000, 1), audio="pcm_s16le", rate=16000, layout="mono")
    title = b"LIST\x12\0\0\0INFOINAM\x06\0\0\0caf\xe9\0\0"  # as Windows wrote it, which is no UTF-8
    content = song.read_bytes() + title
    song.write_bytes(b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:])
    assert heard(probe(song)).shape == (1, 8000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("letter.txt", b"Dear reader,\n" * 200),
        ("list.mp4", b"ffconcat version 1.0\nfile 'clip.mp4'\n"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n"),
        ("subtitles.srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n\n"),
    ],
)
def test_a_text_is_no_clip_whatever_it_is_called(name: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 3)
    write(tmp_path / "clip.ts", 3)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=name):
        probe(tmp_path / name)


def test_of_one_track_of_sound_or_none_nothing_is_said(tmp_path: Path) -> None:
    assert probe(write(tmp_path / "one.mp4", 5, tone(1, 44100))).sound_notes == ()
    assert probe(write(tmp_path / "none.mp4", 5)).sound_notes == ()


def test_sound_that_changes_its_form_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.aac", 0, tone(1, 44100))
    second = write(tmp_path / "b.aac", 0, tone(1, 22050, 1), rate=22050, layout="mono")
    path = tmp_path / "both.aac"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DecodeError, match="44100 Hz, 2 channels to 22050 Hz, 1 channels; convert"):
        heard(probe(path))


def test_sound_that_changes_only_its_channels_goes_on_with_the_first(tmp_path: Path) -> None:
    path, content = tmp_path / "tv.ac3", b""
    for layout, channels in (("stereo", 2), ("5.1", 6)):
        sound = tone(0.5, 48000, channels)
        content += write(path, 0, sound, audio="ac3", rate=48000, layout=layout).read_bytes()
    path.write_bytes(content)
    sound = heard(probe(path))
    assert sound.shape == (2, pytest.approx(48000, abs=3100))
    for part in np.split(sound[0, :40000], 10)[1:]:
        assert np.abs(part).max() == pytest.approx(0.4, abs=0.05)


def test_damaged_sound_of_a_broadcast_is_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "tv.ts", 40, tone(4, 48000), audio="aac", rate=48000, options=_H264)
    with av.open(path) as container:
        (stream,) = container.streams.audio
        begins = {p.pos: float(p.pts * p.time_base) for p in container.demux(stream) if p.pos and p.pts and p.time_base}
        number = stream.id
    content, time, first = bytearray(path.read_bytes()), 0.0, min(begins.values())
    for place in range(0, len(content), 188):
        if int.from_bytes(content[place + 1 : place + 3], "big") & 0x1FFF == number:
            time = begins.get(place, time)
            if 1.0 <= time - first < 2.0 or time - first > 3.8:
                content[place + 60 : place + 188] = 128 * b"\x55"
    path.write_bytes(content)
    info = probe(path)
    sound = heard(info)
    assert sound.shape[1] == pytest.approx(4 * 48000, abs=3000)
    tenths = np.abs(sound[0, : 38 * 4800]).reshape(-1, 4800).max(1)
    assert (tenths[11:20] == 0.0).all()
    assert (tenths[[*range(1, 10), *range(21, 38)]] > 0.3).all()
    (note,) = info.heard.notes()
    assert note.endswith(" s of its sound are damaged and heard as silence")
    assert float(note.split()[0]) == pytest.approx(1.1, abs=0.2)
    heard(info)
    assert info.heard.notes() == [], "it was told"


def test_joined_mp3_is_heard_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "joined.mp3", 0, tone(2, 44100), audio="libmp3lame")
    path.write_bytes(2 * path.read_bytes())
    info = probe(path)
    assert heard(info).shape[1] == pytest.approx(4 * 44100, abs=6000)


def test_a_broadcast_of_which_no_sound_can_be_decoded_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tv.ts", 10, tone(1, 48000), audio="aac", rate=48000, options=_H264)
    info = probe(path)
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        places = [packet.pos or 0 for packet in container.demux(audio=0) if packet.size]
    for place in places:
        content[place + 30 : place + 180] = 150 * b"\xff"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"tv.ts: its sound cannot be decoded"):
        heard(info)


@pytest.mark.parametrize(
    ("share", "what"),
    [
        (slice(20, 21), r"data .*, at 0\.\d s\); convert it, or"),
        (slice(-1, None), r"at \d\.\d s\); it may be cut: get"),
    ],
)
def test_sound_that_cannot_be_decoded_says_where(share: slice, what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 10, tone(1, 44100))
    with av.open(path) as container:
        count = sum(packet.size > 0 for packet in container.demux(audio=0))
    info = probe(damage(path, "audio", range(count)[share]))
    with pytest.raises(DecodeError, match=what + r".*; to convert: ffmpeg -i FILE -c:v copy NEW.mkv"):
        heard(info)


@pytest.mark.parametrize(("silent", "told"), [([0], True), ([1], False), ([0, 1], False), ([], False)])
def test_sound_that_is_only_in_another_channel_than_the_first_is_told(
    silent: list[int], told: bool, tmp_path: Path
) -> None:
    sound = tone(0.5, 16000)
    sound[silent] = 0.0
    info = probe(write(tmp_path / "call.wav", 0, sound, audio="pcm_s16le", rate=16000))
    heard(info)
    assert [note.startswith("only the first channel of its sound is heard") for note in info.heard.notes()] == [
        True
    ] * told


def test_sound_that_is_no_number_is_refused(tmp_path: Path) -> None:
    sound = tone(0.5, 16000, 1)
    sound[0, 100] = np.nan
    path = write(tmp_path / "nan.wav", 0, sound, audio="pcm_f32le", rate=16000, layout="mono")
    with pytest.raises(DecodeError, match="no numbers; convert it, or use --no-audio"):
        heard(probe(path))


def test_a_rate_that_no_sound_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "fast.wav", 0, tone(0.5, 16000, 1), audio="pcm_s16le", rate=16000, layout="mono")
    patched(path, b"fmt ", 12, struct.pack("<I", 1_500_000_000))
    with pytest.raises(DecodeError, match="1500000000 Hz"):
        heard(probe(path))


def test_garbage_in_the_sound_leaves_the_pictures_alone(tmp_path: Path) -> None:
    path = damage(write(tmp_path / "clip.mp4", 10, tone(1, 44100)), "audio")
    info = probe(path)
    assert info.has_audio
    assert numbers(info) == list(range(10))
    with pytest.raises(
        DecodeError, match=r"clip.mp4: its sound cannot be decoded \(.*\); convert it, or use --no-audio"
    ):
        heard(info)


@pytest.mark.parametrize("share", [0.4, 0.98])
@pytest.mark.parametrize("name", ["end.mp4", "front.mp4", "fragments.mp4", "cut.mkv", "cut.flv", "cut.avi", "cut.wav"])
def test_a_cut_file_says_so(name: str, share: float, tmp_path: Path) -> None:
    flags = {"front.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}.get(name)
    options = {"movflags": flags} if flags else {}
    sound, kind = (tone(3, 44100), "pcm_s16le") if name.endswith(("wav", "avi")) else (tone(3, 44100), "aac")
    pictures = 0 if name.endswith("wav") else 30
    path = write(tmp_path / name, pictures, sound, audio=kind, gop=10, container_options=options)
    probe(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=name):
        heard(probe(path))


def _slides(path: Path, ticks: list[int], codec: str) -> Path:
    """Pictures at those milliseconds, and twelve seconds of sound beside them."""
    return write(path, len(ticks), tone(12, 16000, 1), ticks=ticks, codec=codec, rate=16000, layout="mono")


@pytest.mark.parametrize(
    ("ticks", "codec"), [([0], "libx264"), ([0, 1000, 2000], "libx264"), ([0, 4000, 8000], "mpeg4")]
)
def test_a_matroska_file_whose_pictures_end_before_its_sound_is_whole(
    ticks: list[int], codec: str, tmp_path: Path
) -> None:
    info = probe(_slides(tmp_path / "slides.mkv", ticks, codec))
    np.testing.assert_allclose(info.frame_times, np.array(ticks) / 1000, atol=2e-3)
    assert info.duration == pytest.approx(12.0, abs=0.1)


def test_a_matroska_file_that_was_cut_says_so_where_only_its_tags_tell(tmp_path: Path) -> None:
    path = _slides(tmp_path / "slides.mkv", [100 * number for number in range(100)], "mpeg4")
    patched(path, b"\x18\x53\x80\x67", 4, b"\x01" + 7 * b"\xff")  # as a recorder writes that does not know its size
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DecodeError, match=r"slides.mkv: its \w+ lasts until [\d.]+ s and ends after [\d.]+ s; it was cut"
    ):
        probe(path)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    empty, folder = tmp_path / "empty.mp4", tmp_path / "folder"
    empty.touch()
    folder.mkdir()
    wanted = {
        empty: "empty.mp4: is empty; get the file again",
        folder: "folder: a folder; give a video, sound or picture",
        tmp_path / "none.mp4": "none.mp4: no such file; give a video, sound or picture",
    }
    if sys.platform != "win32":  # which has words of its own
        wanted[tmp_path / ("x" * 300)] = "File name too long; check its name and permissions"
    for path, message in wanted.items():
        with pytest.raises(MediaError) as raised:
            probe(path)
        assert str(raised.value).endswith(message)


def test_decoded_pictures_are_freed_without_the_collector(clip: Path) -> None:
    info = probe(clip)
    gc.collect()
    gc.disable()
    try:
        assert len(list(read_frames(info, range(len(info.frame_times)), 56))) == 40
        left = sum(issubclass(type(each), av.VideoFrame) for each in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 1  # the first of a form is asked how it was held
