import torch

from perception.pretext.pictures import spectrograms


def test_a_tone_is_a_line_that_rises_with_its_pitch():
    time = torch.arange(8000) / 8000
    audio = 0.5 * torch.sin(2 * torch.pi * torch.tensor([[300.0], [3000.0]]) * time)
    audio[1, 4000:] = 0
    shown = spectrograms(audio, torch.tensor([8000, 4000]), 8000, bands=32)
    assert shown.shape == (2, 3, 32, 97) and shown.dtype == "uint8"
    rows = (shown == torch.tensor([253, 231, 37]).numpy()[:, None, None]).all(1)  # the loudest place of each clip
    low, high = (int(r.nonzero()[0][0]) for r in rows)
    assert high < 8 < 24 < low  # rows count from above
    assert (shown[1, :, :, 47:] == 255).all() and not (shown[1, :, :, :47] == 255).all(0).any()  # 47 frames are real
