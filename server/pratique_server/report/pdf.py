"""A page as PDF by WeasyPrint, the optional extra ``pdf``: tagged for screen readers (PDF/UA-1).

One page gives the same bytes every time. Nothing is fetched: pages hold their pictures.
"""

import logging

from pratique_common.errors import UsageError


def pdf_of(html: str) -> bytes:
    """Return a page of ours as PDF.

    Raises:
        UsageError: WeasyPrint, or the system library that it needs, is not installed.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except ImportError:
        raise UsageError(
            "a PDF needs WeasyPrint; install it by pip install 'pratique[pdf]', or print the HTML "
            "page from a browser.",
            code="no_pdf_printer",
        ) from None
    except OSError:
        raise UsageError(
            "WeasyPrint does not find the system library Pango; install it, or print the HTML page "
            "from a browser.",
            code="no_pdf_printer",
        ) from None
    # It warns of rules that are for screens.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    fetcher = URLFetcher(allowed_protocols={"data"})
    content: bytes = HTML(string=html, url_fetcher=fetcher).write_pdf(pdf_variant="pdf/ua-1")
    return content
