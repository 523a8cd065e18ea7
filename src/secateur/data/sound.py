"""Sound of one channel as images: WAV files by the standard library, and their log-mel spectrograms."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError, first_line
from secateur.core.reading import opened as opened_file
from secateur.data.folder import PARTS, opened, stem
from secateur.data.raw import Raw, Request
from secateur.data.types import Split

__all__ = ["read_sound", "read_tones", "read_wav", "spectrogram"]

_LARGEST = 2**28
"""Bytes of a WAV file."""
_SIDE = 32
"""Bands of a spectrogram, and its moments in time, where no size is asked for."""
_FLOOR = 1e-6


@arguments.checked
def read_wav(path: str | Path) -> tuple[Tensor, int]:
    """A WAV file of 8, 16, 24 or 32 bits; several channels are averaged.

    Returns:
        The samples in −1…1: float32, (N,); and how many a second has.

    Raises:
        DataError: The file is missing, damaged, empty, or packed in another way; the message names it.
    """
    with opened_file(path, DataError, largest=_LARGEST) as file:
        try:
            with wave.open(file) as found:
                channels, width, rate, count = found.getparams()[:4]
                content = found.readframes(count)
        except (wave.Error, EOFError, ValueError) as error:
            raise DataError(
                f"The sound {path} is damaged or no WAV file of whole numbers: {first_line(error)}."
            ) from error
    if not content or not rate or len(content) % (width * channels):
        raise DataError(f"The sound {path} is empty or cut off. Replace or remove it.")
    samples = _numbers(content, width).reshape(-1, channels).mean(1)
    return torch.from_numpy(samples.astype(np.float32)), rate


def _numbers(content: bytes, width: int) -> np.ndarray:
    if width == 1:  # bytes have no sign in WAV files
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    raw = np.frombuffer(content, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 4 - width :] = raw
    return wide.view("<i4")[:, 0].astype(np.float64) / 2**31


@arguments.checked
def spectrogram(samples: Tensor, rate: int, *, bands: int = _SIDE, moments: int = _SIDE) -> Tensor:
    """Log-mel spectrogram of a fixed size: float32, (1, bands, moments), low bands first.

    Formula: log(Σ over f of w_b(f) |STFT(f, t)|² + 10⁻⁶), with a Hann window of 25 ms, and triangles w_b that are
    evenly spaced in mel = 2595 log₁₀(1 + f/700) up to half the rate. Source: Davis and Mermelstein 1980, Comparison of
    parametric representations, IEEE TASSP 28(4); the scale as O'Shaughnessy 1987, Speech Communication, has it. The hop
    is such that ``moments`` windows cover the sound.

    Args:
        samples: float32, (N,).
        rate: Samples per second.
        bands: Mel bands.
        moments: Windows.

    Raises:
        InputError: No samples, or a size below 1.
    """
    if samples.ndim != 1 or not len(samples) or min(rate, bands, moments) < 1:
        raise InputError(
            f"spectrogram wants samples of shape (N,) and sizes of at least 1; got {tuple(samples.shape)}, {rate}, "
            f"{bands} and {moments}."
        )
    window = max(16, round(0.025 * rate))
    size = max(256, 2 ** math.ceil(math.log2(window)))
    hop = max(1, len(samples) // moments)
    found = torch.stft(
        samples.float(), size, hop, window, torch.hann_window(window), pad_mode="constant", return_complex=True
    )
    power = _mels(bands, size, rate) @ found.abs().square()
    log = (power + _FLOOR).log()
    short = moments - log.shape[1]
    if short > 0:
        log = torch.cat([log, log.new_full((bands, short), math.log(_FLOOR))], 1)
    return log[None, :, :moments].contiguous()


def _mels(bands: int, size: int, rate: int) -> Tensor:
    """Triangles over the frequencies of a transform: float32, (bands, size / 2 + 1)."""
    edges = torch.linspace(0, 2595 * math.log10(1 + rate / 2 / 700), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    return torch.minimum((f - low) / (centre - low), (high - f) / (high - centre)).clamp(min=0).float()


def read_sound(request: Request) -> Raw:
    """Reads WAV files, one folder per class (or ``train``, ``val``, ``test`` of such): spectrograms as images.

    Files are cut or padded with silence to the length of the longest training file, which at most 10 seconds count of.

    Raises:
        DataError: No WAV files, a class that the training part does not have, files of several rates.
    """
    request = opened(request)
    root = request.path
    assert root is not None
    folders = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    roots = {part: folders[n] for part, names in PARTS.items() for n in names if n in folders}
    roots = roots if "train" in roots else {"train": root}
    classes = tuple(sorted(p.name for p in roots["train"].iterdir() if p.is_dir() and _wavs(p)))
    if not classes:
        raise DataError(f"{root} has no sounds: it should hold one folder per class with .wav files in them.")
    sounds = {part: _sounds(folder, classes) for part, folder in roots.items()}
    rate, length = _form(sounds)
    splits = {part: _split(found, rate, length, request.image_size or _SIDE) for part, found in sounds.items()}
    return Raw(request.name or stem(root), classes, splits["train"], splits.get("test"), splits.get("validation"))


Sounds = list[tuple[Path, Tensor, int, int]]
"""File, samples, rate, label."""


def _wavs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".wav" and not p.name.startswith("."))


def _sounds(root: Path, classes: tuple[str, ...]) -> Sounds:
    strange = [p.name for p in sorted(root.iterdir()) if p.is_dir() and p.name not in classes and _wavs(p)]
    if strange:
        raise DataError(f"{root} has classes that the training sounds do not have: {', '.join(strange)}.")
    found = [(path, *read_wav(path), label) for label, name in enumerate(classes) for path in _wavs(root / name)]
    if not found:
        raise DataError(f"{root} has no sounds in folders named like the training classes.")
    return found


def _form(sounds: dict[str, Sounds]) -> tuple[int, int]:
    """The rate of all files, and the length that they are brought to."""
    rates: dict[int, Path] = {}
    for path, _, rate, _ in (sound for found in sounds.values() for sound in found):
        rates.setdefault(rate, path)
    if len(rates) > 1:
        listed = ", ".join(f"{rate:,} Hz ({path.name})" for rate, path in list(rates.items())[:3])
        raise DataError(f"The sounds have several rates: {listed}. Bring them to one.")
    (rate,) = rates
    return rate, min(10 * rate, max(len(samples) for _, samples, _, _ in sounds["train"]))


def _split(sounds: Sounds, rate: int, length: int, side: int) -> Split:
    images = []
    for _, samples, _, _ in sounds:
        fitted = torch.zeros(length)
        fitted[: min(length, len(samples))] = samples[:length]
        images.append(spectrogram(fitted, rate, bands=side, moments=side))
    return Split(torch.stack(images), torch.tensor([label for _, _, _, label in sounds]))


def read_tones(request: Request) -> Raw:
    """400 synthetic sounds of a quarter of a second in four classes: sine, square, sawtooth and noise.

    Pitch (100 to 800 Hz), loudness and the noise below the tone are drawn with a fixed seed; nothing was recorded.
    """
    rate, count, drawn = 8000, 400, torch.Generator().manual_seed(0)
    time = torch.arange(rate // 4) / rate
    labels, images = torch.arange(count) % 4, []
    for label in labels.tolist():
        pitch, loud = (
            100 * 8 ** float(torch.rand((), generator=drawn)),
            0.3 + 0.7 * float(torch.rand((), generator=drawn)),
        )
        phase = (pitch * time + float(torch.rand((), generator=drawn))) % 1
        noise = torch.randn(len(time), generator=drawn)
        wave_form = (torch.sin(2 * torch.pi * phase), (phase < 0.5).float() * 2 - 1, 2 * phase - 1, 0.5 * noise)[label]
        side = request.image_size or _SIDE
        images.append(spectrogram((0.3 + 0.7 * loud) * wave_form + 0.02 * noise, rate, bands=side, moments=side))
    return Raw("tones", ("sine", "square", "sawtooth", "noise"), Split(torch.stack(images), labels))
