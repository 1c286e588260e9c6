"""Commands for an output that exists: its state, its files, its images, its data sets."""

from __future__ import annotations

from typing import Any

import click

from jobs.cli import options


@click.command(short_help="Show what an output holds and what remains.")
@options.output
@options.as_json
def status(output: str, endpoint_url: str | None, as_json: bool) -> int:
    """Show what an output holds and what remains. Reads storage only. Exits with 1 while images are missing."""
    from jobs.status import status

    return status(output, endpoint_url, as_json=as_json)


@click.command(name="retry-rejected", short_help="Re-render the rejected rows of an output.")
@options.output
@options.settings_of_run
@options.ray_address
@options.as_json
@options.quiet
def retry_rejected(output: str, endpoint_url: str | None, settings: tuple[str, ...], **how: Any) -> int:
    """Re-render the rejected rows of an output in place, with the same ids and seeds.

    Use it when the reason is gone: a GPU fault, NaN values, a bug that is fixed.
    """
    from jobs.retry_rejected import retry_rejected

    return retry_rejected(output, endpoint_url, settings, **how)


@click.command(short_help="Check the files, hashes and keys of an output.")
@options.output
@click.option("--replay", metavar="N", type=click.IntRange(min=1), help="Re-render N random images and compare bytes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed that picks the images of --replay.")
@click.option("--repair", is_flag=True, help="Remove damaged images; the next run re-renders them.")
@click.option("--clean", is_flag=True, help="Remove orphans: files that no manifest row names.")
@click.option("--certificate", metavar="FILE", help="With --replay: write a signed statement of the results to FILE.")
@click.option("--key", metavar="FILE", envvar="JANUS_BATCH_KEY", help="PEM: the private key of --certificate.")
@options.as_json
@options.quiet
def verify(
    output: str,
    endpoint_url: str | None,
    replay: int | None,
    seed: int,
    repair: bool,
    clean: bool,
    **how: Any,
) -> int:
    """Check the files, hashes and keys of an output against its manifest. Exits with 1 on a fault.

    For an export: check its files, its images and their C2PA manifests.
    """
    from jobs.verify import verify

    return verify(
        output,
        endpoint_url,
        num_replays=replay or 0,
        seed=seed,
        is_repaired=repair,
        is_cleaned=clean,
        **how,
    )


@click.command(short_help="Re-render one image, or vary it.")
@options.output
@click.argument("image_id", metavar="IMAGE_ID")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Vary it: sampling.cfg_weight=7. Can be repeated."
)
@click.option("--to", metavar="FILE", type=click.Path(dir_okay=False), help="The file to write. Default: IMAGE_ID.png.")
def replay(output: str, endpoint_url: str | None, image_id: str, **how: Any) -> int:
    """Re-render one image of an output from its manifest row, on this machine, and compare it with the stored one.

    Writes the image into the current folder. Exits with 1 if an image that is not varied has other bytes.
    """
    from jobs.replay import replay

    return replay(output, image_id, endpoint_url, **how)


@click.command(short_help="Write OUTPUT/report.html, or compare two outputs.")
@click.argument("output", metavar="OUTPUT")
@click.argument("other", metavar="[OTHER]", required=False)
@options.endpoint_url
@click.option(
    "--to",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="The page that compares two outputs. Default: comparison.html.",
)
@options.as_json
@options.quiet
def report(output: str, other: str | None, endpoint_url: str | None, to: str | None, **how: Any) -> int:
    """Write OUTPUT/report.html: images, sweeps as grids, settings, throughput and rejected rows on one page.

    With OTHER, write a page that shows both outputs side by side on the same prompts and seeds.
    """
    from jobs.report import report

    if to is not None and other is None:
        raise click.UsageError("--to names the page that compares two outputs; give a second OUTPUT")
    return report(output, endpoint_url, other=other, to=to, **how)


@click.command(short_help="Score the images of an output.")
@options.output
@click.option(
    "--scorer",
    metavar="SCORER",
    required=True,
    help="judge, clip, aesthetic, duplicates, or a function of your own: FILE.py:function.",
)
@click.option("--name", metavar="NAME", help="Name of the scores. Default: the scorer's, or the function's.")
@click.option("--checkpoint", metavar="NAME", help="judge, clip, aesthetic: the model that looks at the images.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the checkpoint's hub id.")
@click.option("--question", metavar="TEXT", help="judge: a yes-or-no question; {prompt} is the image's prompt.")
@click.option("--caption", "with_caption", is_flag=True, help="judge: also write what the model sees.")
@click.option("--embeddings", "with_embeddings", is_flag=True, help="clip: also store the image embeddings.")
@click.option("--head", metavar="FILE", help="aesthetic: a linear head over the embeddings, a safetensors file.")
@click.option(
    "--max-distance", metavar="BITS", type=click.IntRange(0, 16), help="duplicates: differing bits. Default: 4."
)
@click.option("--embeddings-from", metavar="NAME", help="duplicates: also compare the embeddings of this scorer.")
@click.option(
    "--min-similarity", metavar="X", type=click.FloatRange(-1, 1), help="duplicates: of embeddings. Default: 0.96."
)
@options.settings_of_run
@options.ray_address
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line.")
@options.quiet
def score(output: str, endpoint_url: str | None, settings: tuple[str, ...], **how: Any) -> int:
    """Score the images of an output and keep the scores in OUTPUT/scores/NAME.

    `export --where` and the report use them. After an interruption, run the same command again.
    """
    from jobs.score import score

    return score(output, endpoint_url, settings, **how)


@click.command(short_help="Export an output as a dataset, or for a benchmark.")
@options.output
@click.argument("dest", metavar="DEST")
@click.option(
    "--layout",
    type=click.Choice(["imagefolder", "webdataset", "parquet", "codes", "lance", "pickapic", "geneval", "dpg"]),
    required=True,
    help="Datasets: imagefolder, webdataset, parquet, codes, lance, pickapic. Benchmarks: geneval, dpg.",
)
@click.option(
    "--where", metavar="EXPR", multiple=True, help="Keep the images that meet this condition. Can be repeated."
)
@click.option("--top", metavar="N", type=click.IntRange(min=1), help="Keep the best N images of each prompt...")
@click.option("--by", metavar="COLUMN", help="... by this column or score, highest first.")
@click.option("--pairs", metavar="COLUMN", help="Write the best and the worst image of each prompt as a pair.")
@click.option("--sample", metavar="N", type=click.IntRange(min=1), help="Keep N random images or pairs.")
@click.option("--seed", type=int, help="Seed of --sample. Default: 0.")
@click.option("--split", metavar="NAME=SHARE,...", help="Split by prompt: train=0.98,test=0.02.")
@click.option(
    "--license", "--licence", "licence", metavar="ID", help="License of the images, for the dataset card: cc0-1.0."
)
@click.option("--allow-incomplete", is_flag=True, help="Export an output that is not finished, or not fully scored.")
@click.option("--c2pa", type=click.Choice(["image", "shard"]), help="Sign a C2PA manifest for each image or shard.")
@click.option(
    "--c2pa-certificate", metavar="FILE", envvar="JANUS_BATCH_C2PA_CERTIFICATE", help="PEM: your certificate chain."
)
@click.option("--c2pa-key", metavar="FILE", envvar="JANUS_BATCH_C2PA_KEY", help="PEM: the key of the certificate.")
@click.option("--push-to", metavar="ORG/NAME", help="Upload to this dataset repository of the Hugging Face hub.")
@options.as_json
@options.quiet
def export(output: str, dest: str, endpoint_url: str | None, **how: Any) -> int:
    """Export an output to DEST, an empty folder or URL, with a dataset card.

    After an interruption, run the same command again.
    """
    from jobs.export import export

    return export(output, dest, endpoint_url, **how)
