"""A page as PDF by WeasyPrint, the optional extra ``pdf``: tagged for screen readers (PDF/UA-1).

One page gives the same bytes every time. Nothing is fetched: pages hold their pictures.
"""

import logging

from pratique_common.errors import UsageError

_VARIANT = "pdf/ua-1"


def pdf_of(html: str, *, page_one: bool = False) -> bytes:
    """Return a page of ours as PDF.

    Args:
        html: the page.
        page_one: print the first sheet alone.

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
    document = HTML(string=html, url_fetcher=fetcher).render(pdf_variant=_VARIANT)
    if page_one:
        document = document.copy(document.pages[:1])
    content: bytes = document.write_pdf(pdf_variant=_VARIANT)
    return content
