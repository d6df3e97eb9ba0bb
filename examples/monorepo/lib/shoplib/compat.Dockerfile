FROM python
COPY --from=shoplib /shoplib /srv/lib/shoplib
ARG STORE
RUN python3 -m shoplib.store "$STORE" && rm -f "${STORE#*:}"
