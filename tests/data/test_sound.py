"""WAV files and their spectrograms, against NumPy."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.core.errors import DataError, InputError
from secateur.data import load
from secateur.data.sound import read_wav, spectrogram


def write(path: Path, samples: np.ndarray, *, width: int = 2, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.clip(np.round(samples * 2 ** (8 * width - 1)), -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1)
    if width == 1:
        content = (whole + 128).astype(np.uint8).tobytes()
    else:
        content = whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(content)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_come_back(tmp_path: Path, width: int, channels: int) -> None:
    given = 0.9 * np.sin(np.arange(200)[:, None] * np.array([[0.1, 0.3]])[:, :channels])
    found, rate = read_wav(write(tmp_path / "a.wav", given.reshape(-1), width=width, channels=channels))
    assert rate == 8000
    np.testing.assert_allclose(found.numpy(), given.mean(1), atol=2 ** (1 - 8 * width) + 1e-6)


def test_a_spectrogram_by_hand() -> None:
    rate, bands, moments = 8000, 12, 10
    x = np.random.default_rng(0).normal(size=1000)
    window, size, hop = 200, 256, 100
    padded = np.concatenate([np.zeros(size // 2), x, np.zeros(size // 2)])
    hann = np.zeros(size)
    hann[28:228] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([np.abs(np.fft.rfft(hann * padded[t * hop : t * hop + size])) ** 2 for t in range(moments)], 1)
    mels = np.linspace(0, 2595 * math.log10(1 + 4000 / 700), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    f = np.fft.rfftfreq(size, 1 / rate)
    wanted = np.zeros((bands, moments))
    for b in range(bands):
        low, mid, high = edges[b : b + 3]
        w = np.where(f <= mid, (f - low) / (mid - low), (high - f) / (high - mid)).clip(0)
        wanted[b] = np.log(w @ frames + 1e-6)
    found = spectrogram(torch.from_numpy(x).float(), rate, bands=bands, moments=moments)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-3, atol=1e-3)


def test_every_length_gives_the_same_size() -> None:
    for length in (1, 7, 300, 5000):
        assert spectrogram(torch.randn(length), 8000).shape == (1, 32, 32)
    with pytest.raises(InputError, match="samples of shape"):
        spectrogram(torch.zeros(0), 8000)


def test_a_folder_of_sounds(tmp_path: Path) -> None:
    t = np.arange(2000) / 8000
    for part in ("train", "test"):
        for name, pitch in (("high", 1500), ("low", 200)):
            for i in range(4):
                write(tmp_path / part / name / f"{i}.wav", 0.5 * np.sin(2 * np.pi * (pitch + 10 * i) * t))
    data = load(f"sound:{tmp_path}", validation=0.25, image_size=16)
    assert (data.classes, data.shape) == (("high", "low"), (1, 16, 16))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [6, 2, 8]
    images, labels = next(data.test.batches(8))
    loudest = images[:, 0].mean(2).argmax(1).float()
    assert loudest[labels == 0].min() > loudest[labels == 1].max(), "high tones lie in higher bands"


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a/x.wav", np.zeros(100))
    write(tmp_path / "b/y.wav", np.zeros(100), rate=16000)
    with pytest.raises(DataError, match=r"several rates: 8,000 Hz \(x\.wav\), 16,000 Hz \(y\.wav\)"):
        load(f"sound:{tmp_path}")
    (tmp_path / "b/y.wav").write_bytes((tmp_path / "a/x.wav").read_bytes()[:30])
    with pytest.raises(DataError, match=r"y\.wav is damaged"):
        load(f"sound:{tmp_path}")
    write(tmp_path / "b/y.wav", np.zeros(0))
    with pytest.raises(DataError, match=r"y\.wav is empty"):
        load(f"sound:{tmp_path}")
    with pytest.raises(DataError, match="has no sounds"):
        load(f"sound:{tmp_path / 'a'}")


def test_tones_are_the_same_every_time() -> None:
    one, two = load("tones"), load("tones")
    assert torch.equal(one.train.images, two.train.images)  # type: ignore[union-attr]
    assert one.classes == ("sine", "square", "sawtooth", "noise")
    assert len(one.train) + len(one.validation) + len(one.test) == 400
