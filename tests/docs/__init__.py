"""The documentation: pages made from the code, and tests of what stands in all of them."""
