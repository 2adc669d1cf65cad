"""A coordinator for hospitals on other machines: certificates, joining, serving, running."""
