"""Serves celora over HTTP: the routes of OpenAI's fine-tuning API, and celora's own below ``/v1/celora``.

Routes are thin: they read a request, call one function of ``services`` and give its result a form. No module here loads
torch. The room needs the extra ``celora[api]``, except for ``client``, which calls such a server from elsewhere.
"""
