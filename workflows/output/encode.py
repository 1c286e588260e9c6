"""From pixels to the bytes of an image file, whose metadata says how it was made."""

from __future__ import annotations

import io
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from actors.recipe import Recipe
from actors.request import ImageRequest

EXTENSIONS = {"png": "png", "webp": "webp", "jpeg": "jpg"}
JPEG_QUALITY = 95
MAX_JPEG_CHARACTERS = 16_000  # in the Exif comment: a JPEG has 64 KiB for all its Exif data
PNG_COMPRESS_LEVEL = 3  # four times as fast as the default of 6, with files 9 % larger

# From https://cv.iptc.org/newscodes/digitalsourcetype/: rendered by a trained model, without a camera.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EXIF_USER_COMMENT = 0x9286
EXIF_IFD = 0x8769


def encode_image(pixels: np.ndarray, image_format: str, request: ImageRequest, recipe: Recipe) -> bytes:
    """Encode uint8 pixels [height, width, 3] as png, webp (lossless) or jpeg. The same input gives the same bytes.

    The request is stored in a `parameters` text chunk (png) or in the Exif user comment, and the IPTC digital source
    type in XMP.
    """
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    parameters, xmp = describe(request, recipe, pixels.shape[1], pixels.shape[0]), _xmp()
    if image_format == "png":
        info = PngInfo()
        info.add_itxt("parameters", parameters)
        info.add_itxt("XML:com.adobe.xmp", xmp)
        image.save(buffer, "PNG", pnginfo=info, compress_level=PNG_COMPRESS_LEVEL)
    elif image_format == "webp":
        image.save(buffer, "WEBP", lossless=True, exif=_exif(parameters), xmp=xmp.encode())
    else:
        exif = _exif(parameters[:MAX_JPEG_CHARACTERS])
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=exif, xmp=xmp.encode())
    return buffer.getvalue()


def describe(request: ImageRequest, recipe: Recipe, width: int, height: int) -> str:
    """The request in the format of common image generation tools: prompt, negative prompt, one line of settings."""
    settings = {
        "Steps": request.num_inference_steps,
        "Temperature": request.temperature,
        "CFG scale": f"{request.cfg_weight:g}",
        "Seed": request.seed,
        "Size": f"{width}x{height}",
        "Model": recipe.checkpoint.rstrip("/").rsplit("/", 1)[-1],
        "Model hash": recipe.weights_sha256[:10],
        "Sampler": recipe.sampler,
    }
    lines = [request.prompt.replace("\0", "�")]  # a text chunk cannot hold NUL
    if request.negative_prompt is not None:
        lines.append("Negative prompt: " + request.negative_prompt.replace("\0", "�"))
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _xmp() -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(DIGITAL_SOURCE_TYPE)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _exif(parameters: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[EXIF_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    return exif.tobytes()
