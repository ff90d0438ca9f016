# Sourced: trust what the builder trusts, if it gave a file (--secret id=certificates,src=...).
if [ -s /run/secrets/certificates ]; then
    export SSL_CERT_FILE=/run/secrets/certificates PIP_CERT=/run/secrets/certificates
fi
