"""Spoken words from the speech synthesiser eSpeak NG, and log-mel spectrograms by NumPy.

    pip install espeakng-loader       # the library and its voices in one wheel

A voice is an accent of English and a speaker, such as "en-us+f2". The C library, called by ctypes, returns
16-bit samples, of which `log_mel` computes the logarithm of the power in mel bands.
"""

import ctypes
from pathlib import Path

import numpy as np

RATE = 22050  # sampling rate of eSpeak NG in Hz
WINDOW, HOP = 512, 256  # samples: frames of 23 ms, one every 12 ms
ACCENTS = ("en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-029")
# Files in eSpeak NG's folder voices/!v: formant speakers, without robot and whisper voices.
SPEAKERS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo"),
    *("Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "Reed", "adam", "anika"),
    *("antonio", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandma"),
    *("grandpa", "ian", "john", "linda", "marcelo", "max", "michel", "miguel", "pablo", "paul"),
    *("pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)
# From espeak-ng/speak_lib.h.
_SYNCHRONOUS, _UTF8, _SPEED, _PITCH = 2, 1, 1, 3
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesizer:
    """Speech synthesiser eSpeak NG; at most one per process, as the C library has global state."""

    def __init__(self):
        import espeakng_loader  # the optional package

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.folder = Path(espeakng_loader.get_data_path())
        rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, str(self.folder).encode(), 0)
        if rate != RATE:
            raise RuntimeError(
                f"eSpeak NG did not start: it returned a rate of {rate}, not {RATE} Hz."
            )
        self.parts = []
        self.callback = _CALLBACK(self._collect)  # referenced, so that Python does not free it
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples, count, events) -> int:
        if samples and count > 0:
            self.parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # continue

    def say(self, word: str, voice: str, speed: int = 160, pitch: int = 50) -> np.ndarray:
        """Synthesise a word: samples (n,) in [-1, 1]. Breathy voices contain noise that differs each time.

        Args:
            word: English word.
            voice: accent+speaker.
            speed: words per minute, at least 80.
            pitch: 0 to 99; 50 is the natural pitch of the speaker.

        Raises:
            ValueError: there is no such voice.
        """
        # The library refuses an unknown accent, but not an unknown speaker.
        known = (self.folder / "voices" / "!v" / voice.partition("+")[2]).is_file()
        if self.library.espeak_SetVoiceByName(voice.encode()) or not known:
            raise ValueError(f"eSpeak NG has no voice {voice!r}.")
        self.library.espeak_SetParameter(_SPEED, speed, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        self.parts.clear()
        text = word.encode()
        self.library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        return np.concatenate(self.parts).astype("float32") / 32768.0


def mel_filters(bands: int, low: float = 80.0, high: float = 8000.0) -> np.ndarray:
    """Triangular filters (WINDOW // 2 + 1, bands) over the bins of a spectrum, equally spaced in mel.

    mel(f) = 2595 log10(1 + f / 700). A triangle rises from 0 at the centre of the band below to 1 at its own
    centre and falls to 0 at the centre of the band above.
    """
    mels = np.linspace(*(2595.0 * np.log10(1.0 + np.array([low, high]) / 700.0)), bands + 2)
    centres = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(WINDOW, 1.0 / RATE)[:, None]
    rising = (bins - centres[:-2]) / (centres[1:-1] - centres[:-2])
    falling = (centres[2:] - bins) / (centres[2:] - centres[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def log_mel(samples: np.ndarray, frames: int, bands: int) -> np.ndarray:
    """Log-mel spectrogram (frames, bands) float32 of the first frames, padded by silence if too short."""
    padded = np.zeros((frames - 1) * HOP + WINDOW)
    padded[: len(samples)] = samples[: len(padded)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2
    return np.log(power @ mel_filters(bands) + 1e-3).astype("float32")
