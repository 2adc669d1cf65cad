"""``pratique-client init``: a site's folder, its keys, and a request to join."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pratique_common import console
from pratique_common.signing import fingerprint

EXAMPLE = (
    "Example: pratique-client init cleveland.invitation.json --folder /srv/pratique --data rows.csv"
)


def init(
    invitation: Annotated[Path, typer.Argument(help="The file that the coordinator sent.")],
    folder: Annotated[Path, typer.Option(help="Folder to make for this site.")],
    data: Annotated[
        Path,
        typer.Option(help="The table of patients, or of their images: CSV or Parquet."),
    ],
    images: Annotated[Path | None, typer.Option(help="Its images: an .npz.")] = None,
    dicom: Annotated[
        Path | None, typer.Option(help="Its images: a folder of DICOM files, at any depth.")
    ] = None,
    dicom_key: Annotated[
        Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"] | None,
        typer.Option(help="What a line of the table is about. Default: SeriesInstanceUID."),
    ] = None,
    nifti: Annotated[
        Path | None, typer.Option(help="Its images: the folder of the NIfTI files that it names.")
    ] = None,
    defaced: Annotated[
        bool, typer.Option("--defaced", help="Faces were removed from all volumes; you looked.")
    ] = False,
    epsilon: Annotated[float, typer.Option(help="Budget of a patient, for ever.")] = 8.0,
    delta: Annotated[float, typer.Option(help="δ of the budget.")] = 1e-5,
    lacks: Annotated[
        list[str] | None, typer.Option(help="Column not recorded here; may be repeated.")
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="The hospital's proxy, http://HOST:PORT.")
    ] = None,
    simulated: Annotated[bool, typer.Option(help="Mark the ledger as a simulation's.")] = False,
) -> None:
    """Make the site's keys here, at the hospital, its site file, and a request to join."""
    from pratique_client.joining import SiteChoices, join

    choices = SiteChoices(
        data=data,
        images=images,
        dicom=dicom,
        dicom_key=dicom_key,
        nifti=nifti,
        defaced=defaced,
        epsilon=epsilon,
        delta=delta,
        lacks=lacks or [],
        proxy=proxy,
        simulated=simulated,
    )
    joined = join(invitation, folder, choices)
    out = console.out
    out.print(f"{joined.invitation.site} is ready in {folder}", markup=False, soft_wrap=True)
    out.print(f"coordinator  {fingerprint(joined.invitation.coordinator)}")
    out.print(f"this site    {fingerprint(joined.public_key)}")
    out.print(
        f"1. Send {joined.request} to the coordinator.\n"
        "2. Call them, on a number that you did not get with the invitation. Read this site's "
        "fingerprint aloud, and compare the coordinator's.\n"
        f"3. Once they accepted it: pratique-client check {folder}\n"
        "Private keys stay in this folder. Give site.pub to the other hospitals.",
        markup=False,
        soft_wrap=True,
    )
