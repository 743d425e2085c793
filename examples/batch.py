"""Photos of different sizes, each with labels of its own: as one tensor, and as a stream that needs little memory.

python examples/batch.py
"""

from pathlib import Path

from PIL import Image

from crt import CAMExtractor, create_model

PHOTOS = Path(__file__).parent / "photos"
labelled = {"chelsea.jpg": ["cat"], "pasture.jpg": ["dog", "horse", "person"]}

model = create_model("crt_vit_s16", pretrained=True)

# As one tensor: (B, K, H, W), absent classes exactly 0, smaller photos in the top left corner.
photos = [Image.open(PHOTOS / name) for name in labelled]
cams = model.cam(photos, list(labelled.values()))
print(f"one tensor {tuple(cams.shape)}; classes with a map: {[cam.amax((1, 2)).nonzero().tolist() for cam in cams]}")

# As a stream: any number of photos, each result at its photo's own size.
extractor = CAMExtractor(model)
pairs = ((Image.open(PHOTOS / name), labels) for name, labels in labelled.items())
for name, result in zip(labelled, extractor.stream(pairs), strict=True):
    print(f"{name}: {result.names}, maps {tuple(result.maps.shape)}, boxes {result.boxes()}")
