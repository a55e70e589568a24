"""Published weights into an ARMOR checkpoint (`build`), and its text path back into a plain InternVL (`export`)."""
