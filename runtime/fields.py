"""Which packets of interlaced H.264 hold the second field of a picture: the decoder makes one picture of both.

Source: ITU-T H.264, 7.3.2.1.1 (sequence parameter set) and 7.3.3 (slice header).
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\0\0\1"
_SLICES, _PARAMETERS = (1, 5), 7  # nal_unit_type
_HIGH = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)  # profiles that say how they store colours
_UNIT_BYTES = 512  # more than a parameter set has, or what is read of a slice header


class Fields:
    """Looks at the packets of one stream, in the order of the file.

    are_possible: whether a picture may come as two fields. is_open: whether the last packet was a first field, whose
    second one is still to come.
    """

    def __init__(self, extradata: bytes) -> None:
        """extradata: of the stream, as MP4 and Matroska store it (avcC), or as broadcasts send it."""
        self.are_possible = False
        self._frame_num_bits, self._split_colours = 4, False
        self._waiting: tuple[int, int] | None = None  # frame_num and bottom_field_flag of a first field
        self._length = 0  # bytes of the number before each unit; 0: there is a start code
        if extradata[:1] == b"\1" and len(extradata) > 8:
            self._length = (extradata[4] & 3) + 1
            self._set_parameters(extradata[8:])
        else:
            for unit in _units(extradata, 0):
                self._set_parameters(unit)

    @property
    def is_open(self) -> bool:
        return self._waiting is not None

    def is_second(self, packet: bytes) -> bool:
        """Whether it is the other half of the picture of the packet before it."""
        for unit in _units(packet, self._length):
            self._set_parameters(unit)
            if unit[0] & 31 in _SLICES:
                field, waiting = self._field(_Bits(unit[1:])), self._waiting
                is_second = field is not None and waiting == (field[0], 1 - field[1])
                self._waiting = None if is_second else field
                return is_second
        return False

    def _field(self, bits: _Bits) -> tuple[int, int] | None:
        """What tells fields apart; None of a whole picture."""
        bits.skip_golombs(3)  # first_mb_in_slice, slice_type, pic_parameter_set_id
        if self._split_colours:
            bits.take(2)
        number = bits.take(self._frame_num_bits)
        return (number, bits.take(1)) if self.are_possible and bits.take(1) else None

    def _set_parameters(self, unit: bytes) -> None:
        if unit[0] & 31 != _PARAMETERS or len(unit) < 5:
            return
        bits = _Bits(unit[4:])
        bits.skip_golombs(1)  # seq_parameter_set_id
        self._split_colours = False
        if unit[1] in _HIGH:
            chroma = bits.golomb()
            self._split_colours = chroma == 3 and bits.take(1) == 1
            bits.skip_golombs(2)  # bit depths
            bits.take(1)  # qpprime_y_zero_transform_bypass_flag
            if bits.take(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.take(1):
                        _skip_scaling(bits, 16 if number < 6 else 64)
        self._frame_num_bits = bits.golomb() + 4
        order = bits.golomb()  # pic_order_cnt_type
        if order == 0:
            bits.skip_golombs(1)
        elif order == 1:
            bits.take(1)
            bits.skip_golombs(2)
            bits.skip_golombs(bits.golomb())
        bits.skip_golombs(1)  # max_num_ref_frames
        bits.take(1)  # gaps_in_frame_num_value_allowed_flag
        bits.skip_golombs(2)  # width, height
        self.are_possible = not bits.take(1)  # frame_mbs_only_flag


class _Bits:
    """Behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # which keeps start codes out of a unit
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_golombs(self, count: int) -> None:
        for _ in range(min(count, 8 * _UNIT_BYTES)):
            self.golomb()


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()  # signed: 1, -1, 2, -2, ...
            following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
        last = following or last


def _units(data: bytes, length: int) -> Iterator[bytes]:
    """The beginning of each unit: those behind start codes, or behind numbers of `length` bytes."""
    place = 0
    while length and place + length < len(data):
        size = int.from_bytes(data[place : place + length], "big")
        yield data[place + length : place + length + min(size, _UNIT_BYTES)] or b"\0"
        place += length + size
    place = -1 if length else data.find(_START)
    while 0 <= place < len(data) - len(_START):
        yield data[place + len(_START) : place + len(_START) + _UNIT_BYTES]
        place = data.find(_START, place + len(_START))
