"""Data sources, told apart by their ``kind``: a new one is one file and one line here."""

from typing import Annotated

from pydantic import Field

from pratique_client.sources.dicom import DicomFolder
from pratique_client.sources.fhir import FhirExport
from pratique_client.sources.image_folder import ImageFolder
from pratique_client.sources.nifti import NiftiVolumes
from pratique_client.sources.sql import SqlQuery
from pratique_client.sources.table_file import TableFile

AnySource = Annotated[
    TableFile | SqlQuery | FhirExport | ImageFolder | DicomFolder | NiftiVolumes,
    Field(discriminator="kind"),
]
