"""Log-mel spectrograms of a made-up sound by torch.stft in f64: `make_logmel.py OUT`.

The sound, so that anyone can make it again: n numbers x_i = 0.5 sin(phase_i) + 0.05 u_i at 16 kHz, rounded to f32.
phase_i = 2 pi (200 t + 2900 t^2 / (n / 16000)) with t = i / 16000: a chirp that rises linearly from 200 to 6000 Hz.
u_i = (s_i >> 40) / 2^23 - 1 with s_i = 6364136223846793005 s_(i-1) + 1442695040888963407 mod 2^64, s_(-1) = 1: noise.

The spectrogram: frames of 512 samples every 160, centred (the clip mirrored by 256 at both ends, edge sample not
repeated), under a periodic Hann window of 400 in their middle; power; 80 triangles evenly spaced in mel
(2595 log10(1 + f / 700)) from 20 to 8000 Hz, of height 1; log(m + 1e-6); then the clip's mean is taken off and it is
divided by its standard deviation (with n - 1) + 1e-5. Values are (frames, 80), frames = 1 + floor(n / 160).

Beside them Whisper's features by transformers: windows of 400, Slaney's mel from 0 Hz, log10, one frame fewer.

logmel.safetensors   short.waveform, odd.waveform (n); short.logmel, odd.logmel (frames, 80); short.whisper (frames - 1,
                     80). All f32, computed in f64.
"""
from common import *
from transformers import WhisperFeatureExtractor

RATE, N_FFT, HOP, WINDOW, BINS, LOW, HIGH = 16000, 512, 160, 400, 80, 20.0, 8000.0


def waveform(n):
    t = torch.arange(n, dtype=torch.float64) / RATE
    state, noise = 1, []
    for _ in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        noise.append((state >> 40) / 2**23 - 1)
    phase = 2 * math.pi * (200 * t + 2900 * t * t / (n / RATE))
    return (0.5 * torch.sin(phase) + 0.05 * torch.tensor(noise, dtype=torch.float64)).float()


def filters():
    mel = lambda f: 2595 * math.log10(1 + f / 700)
    edge = [700 * (10**((mel(LOW) + (mel(HIGH) - mel(LOW)) * i / (BINS + 1)) / 2595) - 1) for i in range(BINS + 2)]
    bank = torch.zeros(N_FFT // 2 + 1, BINS, dtype=torch.float64)
    for k in range(bank.shape[0]):
        f = k * RATE / N_FFT
        for b in range(BINS):
            rise, fall = (f - edge[b]) / (edge[b + 1] - edge[b]), (edge[b + 2] - f) / (edge[b + 2] - edge[b + 1])
            bank[k, b] = max(0.0, min(rise, fall))
    return bank


window, bank = torch.hann_window(WINDOW, dtype=torch.float64), filters()
folder = sys.argv[1] if len(sys.argv) == 2 else sys.exit("usage: make_logmel.py OUT_FOLDER")
os.makedirs(folder, exist_ok=True)
tensors = {}
for name, n in (("short", 4800), ("odd", 17603)):
    x = waveform(n)
    power = torch.stft(x.double(), N_FFT, HOP, WINDOW, window, center=True, pad_mode="reflect",
                       return_complex=True).abs().square()
    m = torch.log(power.T @ bank + 1e-6)
    tensors[name + ".waveform"], tensors[name + ".logmel"] = x, ((m - m.mean()) / (m.std() + 1e-5)).float()
# Whisper's own features. They come from an f64 Fourier transform whose result is rounded to f32 once.
extractor = WhisperFeatureExtractor(feature_size=BINS, sampling_rate=RATE, hop_length=HOP, n_fft=WINDOW)
features = extractor._np_extract_fbank_features(tensors["short.waveform"][None].numpy(), "cpu")
tensors["short.whisper"] = torch.tensor(features[0]).T.float()
save(folder, "logmel.safetensors", tensors)
save_json(
    folder, "config.json",
    dict(kind="logmel", rate=RATE, n_fft=N_FFT, hop=HOP, window=WINDOW, bins=BINS, low=LOW, high=HIGH,
         clips=["short", "odd"], versions=versions()))
print(folder + ":", {k: list(v.shape) for k, v in tensors.items()})
