FROM python
COPY --from=shoplib /shoplib /srv/lib/shoplib
COPY --from=catalog /srv/items.csv .
COPY migrate.py .
CMD ["python3", "migrate.py"]
