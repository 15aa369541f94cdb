# A static binary in an empty image: no shell, no libraries, not root.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev ca-certificates
WORKDIR /src
COPY . .
RUN packaging/build

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/static/tokenbroker /tokenbroker
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/tokenbroker", "healthcheck"]
ENTRYPOINT ["/tokenbroker"]
CMD ["run"]
