"""Interleaved answers of text and images: is the text right, is the image right, does each tell of the other?"""
