"""Input restoration: repairs what a diagnosis finds and touches nothing else (ATLAS AML.M0010)."""
