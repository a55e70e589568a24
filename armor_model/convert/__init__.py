"""Published weights into an ARMOR checkpoint (`build`), and its text path back into its plain base (`export`)."""
